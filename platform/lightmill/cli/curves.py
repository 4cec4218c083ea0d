"""Metrics of a run in the terminal: a table, JSON, plots of plain characters, or a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lightmill.cli.output import JsonOption, console, print_json, print_table
from lightmill.errors import RequestError
from lightmill.records.jobs import EpochMetrics, StepMetrics
from lightmill.sdk import MetricsView, connect
from lightmill.sdk.curves import lines

PLOT_WIDTH, PLOT_HEIGHT = 64, 10
NUMBER_WIDTH = 11
StepsOption = Annotated[bool, typer.Option("--steps", help="Points of steps instead of epochs.")]
PlotOption = Annotated[bool, typer.Option("--plot", help="Draw each metric with plain characters.")]
OutOption = Annotated[Path | None, typer.Option(help="Write a page with plots (HTML) to this file.")]
OnlyOption = Annotated[str | None, typer.Option(help="Only these metrics, such as 'loss,rows_per_second'.")]
LimitOption = Annotated[int, typer.Option(min=1, help="The newest so many lines of the table.")]


def of_job(
    id: str,
    steps: StepsOption = False,
    only: OnlyOption = None,
    limit: LimitOption = 50,
    plot: PlotOption = False,
    out: OutOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show the metrics of a training job, while it runs and afterwards."""
    with connect() as client:
        view = client.jobs.curves(id)
    _show(view, steps, only, limit, plot, out, json_output)


def of_version(
    reference: Annotated[str, typer.Argument(help="name, name@3, name@latest or name@alias")],
    steps: StepsOption = False,
    only: OnlyOption = None,
    limit: LimitOption = 50,
    plot: PlotOption = False,
    out: OutOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show the metrics of the run that made a model version; they are sealed with it."""
    with connect() as client:
        view = client.models.metrics(reference)
    _show(view, steps, only, limit, plot, out, json_output)


def _show(
    view: MetricsView, steps: bool, only: str | None, limit: int, plot: bool, out: Path | None, json_output: bool
) -> None:
    if out is not None:
        try:
            view.save(out)
        except OSError as exc:
            raise RequestError(f"{out} cannot be written: {exc.strerror}; give the path of another file.") from exc
    if json_output:
        print_json(view.record.model_dump(mode="json"))
        return
    points: Sequence[StepMetrics | EpochMetrics] = view.record.steps if steps else view.record.epochs
    unit = "step" if steps else "epoch"
    curves = lines({_number(point): point.metrics for point in points})
    names = _chosen(list(curves), only)
    if plot:
        for name in names:
            console.print("\n".join(draw(name, unit, curves[name])), highlight=False, markup=False, soft_wrap=True)
    else:
        rows = [
            (_number(point), *(_text(point.metrics.get(name)) for name in names)) for point in list(points)[-limit:]
        ]
        print_table(f"{unit.capitalize()}s of {view.title}", (unit, *names), rows)
    if out is not None:
        console.print(f"The page with plots is in {out}", highlight=False, soft_wrap=True)


def _chosen(names: list[str], only: str | None) -> list[str]:
    if only is None:
        return names
    wanted = [name.strip() for name in only.split(",")]
    unknown = next((name for name in wanted if name not in names), None)
    if unknown is not None:
        raise RequestError(f"No metric {unknown!r} was measured; there are: {', '.join(names) or 'none'}.")
    return wanted


def _number(point: StepMetrics | EpochMetrics) -> int:
    return point.step if isinstance(point, StepMetrics) else point.epoch


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def draw(
    name: str, unit: str, line: Sequence[tuple[int, float]], width: int = PLOT_WIDTH, height: int = PLOT_HEIGHT
) -> list[str]:
    """Return a plot as lines of plain characters: a star in each cell that the curve goes through."""
    low, high = min(y for _, y in line), max(y for _, y in line)
    first, last = line[0][0], line[-1][0]
    cells: dict[int, set[int]] = {}
    for x, y in line:
        column = round((x - first) / (last - first) * (width - 1)) if last > first else 0
        row = round((y - low) / (high - low) * (height - 1)) if high > low else 0
        cells.setdefault(row, set()).add(column)
    found = [f"{name}: {_text(line[-1][1])}"]
    for row in range(height - 1, -1, -1):
        label = _text(high) if row == height - 1 else _text(low) if row == 0 else ""
        marks = "".join("*" if column in cells.get(row, ()) else " " for column in range(width))
        found.append(f"{label:>{NUMBER_WIDTH}} |{marks}".rstrip())
    ends = f"{unit} {first}"
    found.append(" " * NUMBER_WIDTH + " +" + "-" * width)
    return [*found, " " * (NUMBER_WIDTH + 2) + ends + str(last).rjust(width - len(ends)), ""]
