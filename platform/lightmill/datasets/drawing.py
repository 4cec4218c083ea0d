"""Plots as inline SVG: plain text, no scripts, colours from CSS variables, and a spoken description in each."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from lightmill.records.profile import Histogram

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
WIDTH, HEIGHT = 360, 140
BASE = HEIGHT - 16
NAMED_MAX = 24
"""The most columns of a heat map that are named beside it."""
SERIES = 6


def escaped(value: object) -> str:
    """Return text that is safe between tags and in quoted attributes; control characters become U+FFFD."""
    return html.escape(_CONTROL.sub("\ufffd", str(value)), quote=True)


def number(value: float | None) -> str:
    """Return a number for reading: six digits, or a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.6g}"


def percent(part: float, whole: float) -> str:
    """Return a share as text."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def svg(title: str, body: str, width: int, height: int) -> str:
    """Return a picture that a screen reader announces by its title."""
    label = escaped(title)
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<title>{label}</title>{body}</svg>"
    )


def histogram(title: str, found: Histogram) -> str:
    """Return bars over a number line; the height of the tallest is written above them."""
    most = max(found.counts, default=0) or 1
    step = WIDTH / max(len(found.counts), 1)
    bars = "".join(
        f'<rect class="s0" x="{index * step + 0.5:.1f}" y="{BASE - height:.1f}" '
        f'width="{max(step - 1, 0.5):.1f}" height="{height:.1f}"/>'
        for index, count in enumerate(found.counts)
        if (height := (BASE - 16) * count / most)
    )
    top = f'<text x="0" y="10">up to {escaped(number(most))} values</text>'
    return svg(title, top + bars + _ends(found.edges[0], found.edges[-1]), WIDTH, HEIGHT)


def _ends(low: float, high: float) -> str:
    return (
        f'<line class="axis" x1="0" y1="{BASE}" x2="{WIDTH}" y2="{BASE}"/>'
        f'<text x="0" y="{HEIGHT - 3}">{escaped(number(low))}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end">{escaped(number(high))}</text>'
    )


def bars(title: str, rows: Sequence[tuple[str, Sequence[float]]], largest: float | None = None) -> str:
    """Return one horizontal bar for each (name, parts) row; parts are stacked in the colours of their series.

    Beside a bar stands its sum, or with `largest`, which a whole bar is, its share of that.
    """
    height, left, right = 18, 120, 56
    most = largest or max((sum(parts) for _, parts in rows), default=0) or 1
    body: list[str] = []
    for index, (name, parts) in enumerate(rows):
        top, at = index * height, float(left)
        body.append(f'<text x="{left - 6}" y="{top + 13}" text-anchor="end">{_short(name)}</text>')
        for series, part in enumerate(parts):
            width = (WIDTH - left - right) * part / most
            if width > 0:
                place = f'x="{at:.1f}" y="{top + 2}" width="{width:.1f}" height="{height - 4}"'
                body.append(f'<rect class="s{series % SERIES}" {place}/>')
            at += width
        said = number(sum(parts)) if largest is None else percent(sum(parts), largest)
        body.append(f'<text x="{at + 5:.1f}" y="{top + 13}">{escaped(said)}</text>')
    return svg(title, "".join(body), WIDTH, max(height * len(rows), 1))


def heatmap(title: str, names: Sequence[str], values: Sequence[Sequence[float | None]]) -> str:
    """Return a square of cells: one colour for positive values, another for negative, fainter towards 0."""
    cell = max(8, min(28, 640 // max(len(names), 1)))
    left = 120 if len(names) <= NAMED_MAX else 0
    body = [
        f'<text x="{left - 6}" y="{row * cell + cell / 2 + 4:.0f}" text-anchor="end">{_short(name)}</text>'
        for row, name in enumerate(names if left else ())
    ]
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            tip = f"{escaped(names[row])}, {escaped(names[column])}: {'-' if value is None else f'{value:.2f}'}"
            kind = "none" if value is None else "s0" if value >= 0 else "s1"
            opacity = 1.0 if value is None else abs(value)
            body.append(
                f'<rect class="{kind}" x="{left + column * cell}" y="{row * cell}" width="{cell - 1}" '
                f'height="{cell - 1}" fill-opacity="{opacity:.2f}"><title>{tip}</title></rect>'
            )
    size = cell * max(len(names), 1)
    return svg(title, "".join(body), left + size, size)


def _short(name: str) -> str:
    return escaped(name if len(name) <= 18 else name[:17] + "\u2026")


def table(head: Sequence[str], rows: Sequence[Sequence[object]], caption: str) -> str:
    """Return a table; the first cell of each row is its header."""
    top = "".join(f'<th scope="col">{escaped(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{escaped(first)}</th>' + "".join(f"<td>{escaped(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table><caption>{escaped(caption)}</caption><thead><tr>{top}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def details(summary: str, body: str) -> str:
    """Return a part that opens on demand, without a script."""
    return f"<details><summary>{escaped(summary)}</summary>{body}</details>"
