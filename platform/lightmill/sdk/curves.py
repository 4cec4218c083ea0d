"""The metrics of a run, as notebooks show them: plots that need nothing else, or those of matplotlib."""

from __future__ import annotations

import html
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightmill.errors import RequestError
from lightmill.records.jobs import RunMetrics

FRAME_HEIGHT = 640


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsView:
    """Metrics: their numbers in `record`, and the same as a page of HTML that needs nothing else.

    A notebook shows the page, in a frame of its own that runs no script and asks for nothing.
    """

    record: RunMetrics
    title: str
    page: str = field(repr=False)

    def save(self, path: str | Path) -> Path:
        """Write the page to a file and return its path."""
        target = Path(path)
        target.write_text(self.page, encoding="utf-8")
        return target

    def plot(self, *names: str) -> Any:
        """Return a figure of matplotlib with a plot of each metric of steps or epochs; by default of the losses.

        Raises:
            RequestError: Matplotlib is missing, or nothing of that name was measured.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as exc:
            raise RequestError("Plots of matplotlib need an extra: pip install 'lightmill[notebook]'.") from exc
        steps = lines({point.step: point.metrics for point in self.record.steps})
        epochs = lines({epoch.epoch: epoch.metrics for epoch in self.record.epochs})
        wanted = names or [name for name in ("loss", "validation_loss") if name in steps | epochs]
        unknown = next((name for name in wanted if name not in steps | epochs), None)
        if unknown is not None or not wanted:
            there_are = ", ".join(sorted(steps | epochs)) or "nothing yet"
            raise RequestError(f"No metric {unknown!r} was measured; there are: {there_are}.")
        figure, axes = plt.subplots(1, 2, figsize=(10, 3.2))
        for axis, unit, found in ((axes[0], "step", steps), (axes[1], "epoch", epochs)):
            for name in wanted:
                if name in found:
                    axis.plot(*zip(*found[name], strict=True), label=name)
                    axis.legend()
            axis.set(xlabel=unit, title=self.title)
        figure.tight_layout()
        return figure

    def _repr_html_(self) -> str:
        """Return the frame that a notebook shows; its styles and the notebook's do not meet."""
        return (
            f'<iframe sandbox="" title="Metrics of {html.escape(self.title)}" srcdoc="{html.escape(self.page)}" '
            f'style="width:100%;height:{FRAME_HEIGHT}px;border:0"></iframe>'
        )


def lines(points: Mapping[int, Mapping[str, float]]) -> dict[str, list[tuple[int, float]]]:
    """Return the points of each metric, in the order in which metrics first appear."""
    found: dict[str, list[tuple[int, float]]] = {}
    for at, metrics in points.items():
        for name, value in metrics.items():
            found.setdefault(name, []).append((at, value))
    return found


def notebook_display() -> Any:
    """Return IPython's `display` in a notebook, None elsewhere."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display
