"""plan: what a training run would take, before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightmill.cli.operations import operate
from lightmill.cli.output import JsonOption, console, escape, notes, print_facts, print_json, print_table, size_text
from lightmill.records.plans import StrategyPlan, TrainPlan
from lightmill.records.specs import read_spec_file

_COLUMNS = ("strategy", "layout", "weights", "gradients", "optimizer", "activations", "other", "rows", "a worker")
_TIMES = ("sent a step", "all send", "step", "run", "fits")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan")(plan)


def plan(
    spec: Annotated[Path, typer.Argument(help="The YAML specification of a training run.")],
    strategy: Annotated[list[str] | None, typer.Option(help="Only these strategies; by default all.")] = None,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Time some steps on this machine.")] = True,
    gbits: Annotated[float, typer.Option(help="Network between workers, in 10^9 bits a second.")] = 10.0,
    json_output: JsonOption = False,
) -> None:
    """Say what training would take: memory, messages, steps and time of each strategy, and whether it fits."""
    options = {"spec": read_spec_file(spec), "strategies": strategy or [], "probe": probe, "link_gbits": gbits}
    done = operate("training.plan", options, quiet=json_output)
    if json_output:
        print_json(done)
        return
    found = TrainPlan.model_validate(done)
    _print_run(found)
    possible = [one for one in found.strategies if not one.refused]
    print_table("Memory of the worker that needs most", _COLUMNS, [_memory(one) for one in possible])
    print_table("Each step", ("strategy", *_TIMES), [_times(one) for one in possible])
    for one in found.strategies:
        if one.refused or one.why_not:
            console.print(f"{one.strategy}: {escape(one.refused or one.why_not)}", highlight=False, soft_wrap=True)
    for note in found.notes:
        notes.print(escape(note), highlight=False, soft_wrap=True)


def _print_run(found: TrainPlan) -> None:
    nodes = ", ".join(
        f"{node.name} {node.cpus:g} CPU"
        + (f" {node.gpus:g} GPU" if node.gpus else "")
        + (f" {size_text(node.memory_bytes)}" if node.memory_bytes else "")
        for node in found.nodes
    )
    print_facts(
        f"Plan of {found.model} on {found.dataset}",
        {
            "parameters": f"{found.parameters:,}, {found.trained_parameters:,} trained",
            "steps": f"{found.steps:,}, {found.steps_per_epoch:,} an epoch of {found.batch_size} rows each",
            "precision": found.precision,
            "placement": found.placement if found.placed else f"refused: {found.placement}",
            "nodes": nodes or "none",
            "probe": f"{found.probe_steps} steps of {found.probe_rows} rows here, {found.link_gbits:g} Gbit/s between"
            if found.probe_steps
            else "none",
        },
    )


def _memory(one: StrategyPlan) -> list[str]:
    sizes = (
        one.parameter_bytes,
        one.gradient_bytes,
        one.optimizer_bytes,
        one.activation_bytes,
        one.other_bytes,
        one.rows_bytes,
        one.total_bytes,
    )
    total = [size_text(size) for size in sizes]
    server = f" + {size_text(one.server_bytes)} a server" if one.server_bytes else ""
    return [one.strategy + (" *" if one.chosen else ""), one.layout, *total[:-1], total[-1] + server]


def _times(one: StrategyPlan) -> list[str]:
    fits = {True: "yes", False: "no", None: "unknown"}[one.fits]
    step = "-" if one.step_s is None else _duration(one.step_s)
    run = "-" if one.run_s is None else _duration(one.run_s)
    return [one.strategy, size_text(one.sent_bytes), size_text(one.all_sent_bytes), step, run, fits]


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
