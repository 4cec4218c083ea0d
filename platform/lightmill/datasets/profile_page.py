"""A profile as one HTML page that needs nothing else: no script, no request, light and dark, readable by ear.

Every name and value is escaped, and the page's content security policy forbids scripts and requests besides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lightmill.datasets.drawing import (
    SERIES,
    bars,
    details,
    escaped,
    heatmap,
    histogram,
    number,
    percent,
    table,
)
from lightmill.records.profile import ColumnSummary, Histogram, NumberSummary, ProfileRecord

DETAILS_MAX = 200
BARS_MAX = 40
HEAT_TABLE_MAX = 10
OPEN_MAX = 30
"""With more columns, what is said of each opens on demand."""
_URI = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+=*")
_LIGHT = ("#2563a8", "#c2571a", "#3d8a4f", "#8a4fa3", "#a38a1f", "#6b7280")
_DARK = ("#7db3ec", "#f0a06a", "#8fd19e", "#cfa3e0", "#e0cf7a", "#a5abb5")


def _colours(colours: tuple[str, ...]) -> str:
    return "".join(f"--s{index}:{colour};" for index, colour in enumerate(colours))


STYLE = (
    ".lm-profile{"
    + _colours(_LIGHT)
    + "--ink:#1b1f24;--soft:#57606a;--line:#d0d7de;--back:#fff;color:var(--ink);background:var(--back);"
    "font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:auto;padding:1rem}"
    "@media (prefers-color-scheme:dark){.lm-profile{"
    + _colours(_DARK)
    + "--ink:#e6edf3;--soft:#9aa4b0;--line:#3a424d;--back:#12161b}}"
    # A name may be as long as it likes and have no place to break at.
    ".lm-profile h1,.lm-profile h2,.lm-profile h3,.lm-profile p,.lm-profile summary{overflow-wrap:anywhere}"
    ".lm-profile h1,.lm-profile h2,.lm-profile h3{line-height:1.2;margin:1.2rem 0 .4rem}"
    ".lm-profile h3{display:inline-block;margin:.2rem .6rem .2rem 0}.lm-profile article p{margin:.2rem 0}"
    ".lm-profile table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}"
    ".lm-profile caption{text-align:left;color:var(--soft);overflow-wrap:anywhere;padding-bottom:.2rem}"
    ".lm-profile th,.lm-profile td{border-bottom:1px solid var(--line);padding:.15rem .6rem;text-align:right}"
    ".lm-profile td{white-space:nowrap}"
    ".lm-profile tbody th,.lm-profile thead th:first-child{text-align:left;font-weight:600;padding-left:0}"
    ".lm-profile tbody th{overflow-wrap:anywhere;min-width:7rem;max-width:24rem}"
    ".lm-profile thead th{color:var(--soft);font-weight:500}"
    ".lm-profile .scroll{overflow-x:auto;max-width:100%}"
    ".lm-profile .pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));"
    "gap:.5rem 2rem;align-items:start}.lm-profile .pair>div{min-width:0}"
    ".lm-profile article,.lm-profile .column{border-top:1px solid var(--line);padding:.6rem 0}"
    ".lm-profile summary{cursor:pointer}"
    ".lm-profile svg{max-width:100%;height:auto;font:11px system-ui,sans-serif;display:block;margin:.5rem 0}"
    ".lm-profile svg text{fill:var(--soft)}.lm-profile .axis{stroke:var(--line)}.lm-profile .none{fill:var(--line)}"
    ".lm-profile .soft{color:var(--soft)}"
    ".lm-profile .grid{display:flex;flex-wrap:wrap;gap:6px}"
    ".lm-profile .grid img{image-rendering:pixelated;height:80px;max-width:100%;border:1px solid var(--line)}"
    ".lm-profile .key{display:inline-block;width:.8em;height:.8em;margin:0 .4em 0 0}"
    ".lm-profile .keys{display:flex;gap:1.2rem;flex-wrap:wrap;margin:.2rem 0}"
    + "".join(f".lm-profile .s{index}{{fill:var(--s{index});background:var(--s{index})}}" for index in range(SERIES))
)
PAGE_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The content security policy of the page: its own styles and pictures, no script and no request."""

PAGE_STYLE = "body{margin:0;background:#fff}@media (prefers-color-scheme:dark){body{background:#12161b}}"


def profile_page(profile: ProfileRecord) -> str:
    """Return a whole HTML document."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{PAGE_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Profile of {escaped(profile.name)}</title><style>{PAGE_STYLE}</style></head>"
        f"<body>{profile_fragment(profile)}</body></html>"
    )


def profile_fragment(profile: ProfileRecord) -> str:
    """Return the profile as one element with its own style, as `_repr_html_` of a notebook wants it."""
    parts = [_summary(profile), _missing(profile), _classes(profile), _correlations(profile), _pictures(profile)]
    shown = profile.columns[:DETAILS_MAX]
    columns = "".join(_column(column, profile.rows, folded=len(shown) > OPEN_MAX) for column in shown)
    if len(shown) < len(profile.columns):
        columns += f'<p class="soft">{len(profile.columns) - len(shown)} more columns are in the table above only.</p>'
    return (
        f'<main class="lm-profile"><style>{STYLE}</style><h1>Profile of {escaped(profile.name)}</h1>'
        + "".join(parts)
        + f'<section aria-label="Columns"><h2>Columns</h2>{columns}</section></main>'
    )


def _summary(profile: ProfileRecord) -> str:
    rows = [("rows read", number(profile.rows_in)), ("rows kept", number(profile.rows))]
    rows += [("columns", number(len(profile.columns)))]
    rows += [(f"rejected: {reason}", number(count)) for reason, count in profile.rejected.items()]
    rows += [(f"clipped in {name}", number(count)) for name, count in profile.clipped.items()]
    rows += [
        (f"split {name}", f"{number(count)} ({percent(count, profile.rows)})") for name, count in profile.splits.items()
    ]
    found = table(("what", "count"), rows, "What was read, kept and rejected")
    return f'<section aria-label="Summary">{found}</section>'


def _missing(profile: ProfileRecord) -> str:
    head = ("column", "type", "role", "values", "missing", "share missing", "distinct")
    rows = [
        (c.name, c.dtype, c.role, number(c.count), number(c.nulls), percent(c.nulls, profile.rows), _distinct(c))
        for c in profile.columns
    ]
    holes = sorted((c for c in profile.columns if c.nulls), key=lambda c: (-c.nulls, c.name))[:BARS_MAX]
    plot = '<p class="soft">No value is missing.</p>'
    if holes:
        plot = bars("Share of missing values by column", [(c.name, [c.nulls]) for c in holes], profile.rows)
    return (
        f'<section aria-label="Missing values"><h2>Missing values</h2>{plot}</section>'
        f'<section aria-label="All columns"><h2>All columns</h2>{table(head, rows, "Counts of each column")}</section>'
    )


def _distinct(column: ColumnSummary) -> str:
    if column.distinct is None:
        return "-"
    return number(column.distinct) if column.distinct_exact else f"about {number(column.distinct)}"


def _classes(profile: ProfileRecord) -> str:
    found = profile.classes
    if found is None:
        return ""
    keys = "".join(
        f'<span><span class="key s{index % SERIES}"></span>{escaped(name)}</span>'
        for index, name in enumerate(found.splits)
    )
    rows = list(zip(found.classes, found.counts, strict=True))
    plot = bars(f"Rows of each class of {found.column}, by split", rows[:BARS_MAX])
    lines = [(name, *map(number, counts), number(sum(counts))) for name, counts in rows]
    return (
        f'<section aria-label="Class balance"><h2>Class balance: {escaped(found.column)}</h2>'
        + _pair(
            f'{plot}<p class="keys">{keys}</p>',
            table(("class", *found.splits, "together"), lines, "Rows of each class in each split"),
        )
        + "</section>"
    )


def _correlations(profile: ProfileRecord) -> str:
    found = profile.correlations
    if found is None:
        return ""
    names = found.columns
    more = f" {found.left_out} more numeric columns are left out." if found.left_out else ""
    pairs = sorted(
        (
            (value, names[row], names[column])
            for row in range(len(names))
            for column in range(row)
            if (value := found.values[row][column]) is not None
        ),
        key=lambda pair: (-abs(pair[0]), pair[1:]),
    )[:HEAT_TABLE_MAX]
    strongest = [(f"{a} and {b}", f"{value:.3f}") for value, a, b in pairs]
    return (
        '<section aria-label="Correlations"><h2>Correlations</h2>'
        + _pair(
            heatmap("Correlations of numeric columns", names, found.values)
            + '<p class="soft">Pearson, over the rows that have both. Blue is positive, orange negative, fainter is '
            f"weaker; grey is of a column that never varies.{more}</p>",
            table(("columns", "correlation"), strongest, "The strongest"),
        )
        + "</section>"
    )


def _pictures(profile: ProfileRecord) -> str:
    images = "".join(
        f'<img src="{thumb.uri}" alt="{escaped(thumb.column)} of row {thumb.row_id}">'
        for thumb in profile.thumbnails
        if _URI.fullmatch(thumb.uri)
    )
    return f'<section aria-label="Images"><h2>Images</h2><div class="grid">{images}</div></section>' if images else ""


def _pair(left: str, right: str) -> str:
    """Return two parts side by side, one below the other where there is no room."""
    return f'<div class="pair"><div>{left}</div><div>{right}</div></div>'


def _column(column: ColumnSummary, rows: int, *, folded: bool) -> str:
    facts = f"{column.dtype}, {column.role}, {number(column.count)} values, {number(column.nulls)} missing"
    head = f'<h3>{escaped(column.name)}</h3><span class="soft">{escaped(facts)}</span>'
    body = "".join(_told(column, rows)) or '<p class="soft">There is nothing to draw.</p>'
    if folded:
        return f'<details class="column"><summary>{head}</summary>{body}</details>'
    return f"<article>{head}{body}</article>"


def _told(column: ColumnSummary, rows: int) -> Iterator[str]:
    """Yield what is said of a column: nothing of the values of a personal one."""
    if column.hidden:
        tags = ", ".join(column.tags)
        yield f'<p class="soft">Personal ({escaped(tags)}): values are counted and not shown.</p>'
        return
    if column.numbers and column.numbers.count:
        yield _numbers(column.name, "values", column.numbers)
    if column.lengths and column.lengths.count:
        yield _numbers(column.name, "lengths", column.lengths)
    if column.top:
        yield _top(column, rows)


def _numbers(name: str, what: str, found: NumberSummary) -> str:
    facts = [
        ("minimum", number(found.minimum)),
        ("maximum", number(found.maximum)),
        ("mean", number(found.mean)),
        ("standard deviation", number(found.std)),
    ]
    names = ("5 %", "25 %", "50 %", "75 %", "95 %")
    if len(found.quantiles) == len(names):
        facts += [(f"quantile {at}", number(value)) for at, value in zip(names, found.quantiles, strict=True)]
    if found.infinite:
        facts.append(("infinite", number(found.infinite)))
    title = f"Histogram of {name}, {what}"
    plot = histogram(title, found.histogram) + _bins(found.histogram) if found.histogram else ""
    return _pair(plot, table(("statistic", what), facts, f"Statistics of {name}, {what}"))


def _bins(found: Histogram) -> str:
    edges = found.edges
    rows = [
        (f"{number(edges[index])} to {number(edges[index + 1])}", number(count))
        for index, count in enumerate(found.counts)
    ]
    return details(
        f"Numbers of the plot, of {number(found.sampled)} values", table(("range", "rows"), rows, "Histogram")
    )


def _top(column: ColumnSummary, rows: int) -> str:
    sampled = any(value.at_least for value in column.top)
    lines = [
        (value.value, f"{'at least ' if value.at_least else ''}{number(value.count)}", percent(value.count, rows))
        for value in column.top
    ]
    title = f"Most frequent values of {column.name}" + (" (at least, from a sample)" if sampled else "")
    plot = bars(title, [(value.value, [value.count]) for value in column.top])
    return _pair(plot, table(("value", "rows", "share"), lines, title))
