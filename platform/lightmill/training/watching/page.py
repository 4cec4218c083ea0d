"""The metrics of a run as one HTML page that needs nothing else: no script, no request, light and dark.

Metrics of epochs that belong together (`loss`, `train_loss`, `validation_loss`) share a plot; each metric of steps has
its own. A long history is drawn by its means over equal parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightmill.datasets.drawing import details, escaped, number, svg, table
from lightmill.datasets.profile_page import PAGE_POLICY, PAGE_STYLE
from lightmill.records.jobs import RunMetrics

WIDTH, HEIGHT, LEFT, BASE, TOP = 420, 200, 58, 172, 14
DRAWN_MAX = 300
COLOURS = 4
PREFIXES = ("train_", "validation_", "test_")
Line = Sequence[tuple[float, float]]
STYLE = (
    ".lm-run{--s0:#2563a8;--s1:#c2571a;--s2:#3d8a4f;--s3:#8a4fa3;--ink:#1b1f24;--soft:#57606a;--line:#d0d7de;"
    "--back:#fff;color:var(--ink);background:var(--back);font:15px/1.5 system-ui,sans-serif;max-width:70rem;"
    "margin:auto;padding:1rem}"
    "@media (prefers-color-scheme:dark){.lm-run{--s0:#7db3ec;--s1:#f0a06a;--s2:#8fd19e;--s3:#cfa3e0;--ink:#e6edf3;"
    "--soft:#9aa4b0;--line:#3a424d;--back:#12161b}}"
    ".lm-run h1,.lm-run h2,.lm-run h3{line-height:1.2;overflow-wrap:anywhere;margin:.8rem 0 .2rem}"
    ".lm-run .plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:.5rem 2rem}"
    ".lm-run svg{max-width:100%;height:auto;font:11px system-ui,sans-serif;display:block}"
    ".lm-run svg text{fill:var(--soft)}.lm-run .axis{stroke:var(--line)}"
    ".lm-run polyline{fill:none;stroke-width:1.5}.lm-run .soft{color:var(--soft)}"
    ".lm-run .key{display:inline-block;width:.8em;height:.8em;margin-right:.4em}"
    ".lm-run .keys{display:flex;gap:1.2rem;flex-wrap:wrap;margin:0}"
    ".lm-run table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}"
    ".lm-run caption{text-align:left;color:var(--soft)}.lm-run .scroll{overflow-x:auto}"
    ".lm-run th,.lm-run td{border-bottom:1px solid var(--line);padding:.15rem .6rem;text-align:right}"
    + "".join(
        f".lm-run .l{place}{{stroke:var(--s{place})}}"
        f".lm-run .s{place}{{fill:var(--s{place});background:var(--s{place})}}"
        for place in range(COLOURS)
    )
)


def metrics_page(found: RunMetrics, title: str) -> str:
    """Return a whole HTML document."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{PAGE_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Metrics of {escaped(title)}</title><style>{PAGE_STYLE}</style></head>"
        f"<body>{metrics_fragment(found, title)}</body></html>"
    )


def metrics_fragment(found: RunMetrics, title: str) -> str:
    """Return the plots as one element with its own style."""
    parts = [f'<main class="lm-run"><style>{STYLE}</style><h1>Metrics of {escaped(title)}</h1>']
    if not found.epochs and not found.steps:
        parts.append('<p class="soft">Nothing was measured yet.</p>')
    parts.append(_plots("Epochs", "epoch", _families(_lines([(e.epoch, e.metrics) for e in found.epochs]))))
    steps = _lines([(s.step, s.metrics) for s in found.steps])
    parts.append(_plots("Steps", "step", {name: {name: line} for name, line in steps.items()}))
    return "".join([*parts, _table(found), "</main>"])


def _lines(points: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each metric, in the order in which metrics first appear."""
    found: dict[str, list[tuple[float, float]]] = {}
    for at, metrics in points:
        for name, value in metrics.items():
            found.setdefault(name, []).append((float(at), value))
    return found


def _families(lines: Mapping[str, Line]) -> dict[str, dict[str, Line]]:
    """Return lines that share a plot by what they have in common: the name without `train_` and the like."""
    found: dict[str, dict[str, Line]] = {}
    for name, line in lines.items():
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
        found.setdefault(name.removeprefix(prefix), {})[name] = line
    return found


def _plots(title: str, unit: str, families: Mapping[str, Mapping[str, Line]]) -> str:
    if not families:
        return ""
    plots = "".join(f"<div>{_plot(name, unit, lines)}</div>" for name, lines in families.items())
    return f'<section aria-label="{title}"><h2>{title}</h2><div class="plots">{plots}</div></section>'


def _plot(name: str, unit: str, lines: Mapping[str, Line]) -> str:
    drawn = {key: thinned(line) for key, line in lines.items()}
    xs = [x for line in drawn.values() for x, _ in line]
    ys = [y for line in drawn.values() for _, y in line]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)

    def place(x: float, y: float) -> str:
        across = (x - x0) / (x1 - x0) if x1 > x0 else 0.5
        up = (y / 2 - y0 / 2) / (y1 / 2 - y0 / 2) if y1 > y0 else 0.5  # halves, since a difference may overflow
        return f"{LEFT + across * (WIDTH - LEFT - 6):.1f},{BASE - up * (BASE - TOP):.1f}"

    body = (
        f'<line class="axis" x1="{LEFT}" y1="{BASE}" x2="{WIDTH}" y2="{BASE}"/>'
        f'<text x="{LEFT - 6}" y="{TOP + 4}" text-anchor="end">{escaped(number(y1))}</text>'
        f'<text x="{LEFT - 6}" y="{BASE}" text-anchor="end">{escaped(number(y0))}</text>'
        f'<text x="{LEFT}" y="{BASE + 16}">{unit} {escaped(number(x0))}</text>'
        f'<text x="{WIDTH}" y="{BASE + 16}" text-anchor="end">{escaped(number(x1))}</text>'
    )
    for index, line in enumerate(drawn.values()):
        points = [place(x, y) for x, y in line]
        if len(points) == 1:
            x, y = points[0].split(",")
            body += f'<circle class="s{index % COLOURS}" cx="{x}" cy="{y}" r="2.5"/>'
        else:
            body += f'<polyline class="l{index % COLOURS}" points="{" ".join(points)}"/>'
    keys = "".join(
        f'<span><span class="key s{index % COLOURS}"></span>{escaped(key)} {escaped(number(line[-1][1]))}</span>'
        for index, (key, line) in enumerate(lines.items())
    )
    return f'<h3>{escaped(name)}</h3>{svg(f"{name} by {unit}", body, WIDTH, HEIGHT)}<p class="keys">{keys}</p>'


def thinned(line: Line, most: int = DRAWN_MAX) -> list[tuple[float, float]]:
    """Return at most `most` points: means over equal parts of a longer line."""
    if len(line) <= most:
        return list(line)
    found = []
    for part in range(most):
        some = line[part * len(line) // most : (part + 1) * len(line) // most]
        found.append((sum(x / len(some) for x, _ in some), sum(y / len(some) for _, y in some)))
    return found


def _table(found: RunMetrics) -> str:
    if not found.epochs:
        return ""
    names = list(dict.fromkeys(name for epoch in found.epochs for name in epoch.metrics))
    rows = [(e.epoch, *(number(e.metrics.get(name)) for name in names)) for e in found.epochs]
    return details("Numbers of the epochs", table(("epoch", *names), rows, "Metrics of each epoch"))
