"""traffic, promote, rollback, shadows: the versions that share the requests of an endpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from lightmill.cli.output import JsonOption, console, escape, print_json, print_table
from lightmill.records.rollouts import TrafficReport, TrafficRow
from lightmill.sdk import connect

EVENTS_SHOWN = 5


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("traffic")(traffic)
    app.command("promote")(promote)
    app.command("rollback")(rollback)
    app.command("shadows")(shadows)


def traffic(endpoint: str, json_output: JsonOption = False) -> None:
    """Show how versions share an endpoint's requests, and how they do."""
    with connect() as client:
        _print(client.endpoints.traffic(endpoint), json_output)


def promote(
    endpoint: str,
    candidate: Annotated[str, typer.Option(help="Which one; the canary, or the only one, if not given.")] = "",
    json_output: JsonOption = False,
) -> None:
    """Move an endpoint's alias to a candidate's version."""
    with connect() as client:
        _print(client.endpoints.promote(endpoint, candidate), json_output)


def rollback(endpoint: str, json_output: JsonOption = False) -> None:
    """End an endpoint's canary; where none is under way, move its alias back."""
    with connect() as client:
        _print(client.endpoints.rollback(endpoint), json_output)


def shadows(
    endpoint: str,
    limit: Annotated[int, typer.Option(help="How many rows.", min=1, max=1000)] = 50,
    json_output: JsonOption = False,
) -> None:
    """List rows that shadows answered otherwise."""
    with connect() as client:
        found = client.endpoints.shadows(endpoint, limit)
    if json_output:
        print_json([one.model_dump(mode="json") for one in found])
        return
    rows = [
        (
            d.at,
            d.candidate,
            d.candidate_version,
            d.request,
            d.row,
            d.output,
            d.kind,
            *map(_number, (d.absolute, d.relative)),
        )
        for d in found
    ]
    columns = ("when", "candidate", "version", "request", "row", "output", "kind", "absolute", "relative")
    print_table(f"Differences of shadows of {endpoint}", columns, rows)


def _print(report: TrafficReport, json_output: bool) -> None:
    if json_output:
        print_json(report.model_dump(mode="json"))
        return
    columns = ("name", "version", "role", "share", "state", "requests", "errors", "p50", "p99", "shadow")
    print_table(f"Traffic of {report.endpoint}", columns, [_cells(row) for row in report.rows])
    if report.phase is not None:
        console.print(f"{report.phase}{_step(report)}: {escape(report.reason)}", highlight=False, soft_wrap=True)
    for event in report.events[-EVENTS_SHOWN:]:
        console.print(f"  {event.at} {event.phase}: {escape(event.reason)}", highlight=False, soft_wrap=True)


def _step(report: TrafficReport) -> str:
    if report.step is None or not report.steps:
        return ""
    return f", step {report.step + 1} of {len(report.steps)} ({report.steps[report.step]:g} %)"


def _cells(row: TrafficRow) -> tuple[object, ...]:
    copies = row.shadows + row.shadow_errors + row.shadow_dropped
    told = f"{row.shadows} answered, {row.differed} differ, {row.shadow_errors} failed, {row.shadow_dropped} dropped"
    return (
        row.name,
        row.version or "",
        row.role,
        f"{row.percent:g} %",
        f"{row.state} {row.message}".strip(),
        row.requests,
        f"{row.error_rate:.2%}" if row.requests else "",
        "" if row.p50_ms is None else f"{row.p50_ms:.1f} ms",
        "" if row.p99_ms is None else f"{row.p99_ms:.1f} ms",
        told if copies else "",
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
