"""tune, the table of its trials, and replays of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from lightmill.cli.following import follow_job
from lightmill.cli.output import JsonOption, console, print_facts, print_json, print_table
from lightmill.records.jobs import Job
from lightmill.records.replay import ReplayReport
from lightmill.records.tuning import Trial, TrialTable
from lightmill.sdk import connect

UNEQUAL = 1
SHOWN = 20
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The id of a tuning job.")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the job has ended.")]


def add_to(app: typer.Typer, jobs: typer.Typer) -> None:
    """Add the commands, those on jobs to their group."""
    app.command("tune")(tune)
    jobs.command("trials")(trials)
    jobs.command("replay")(replay)


def tune(
    spec: Annotated[Path, typer.Argument(help="The YAML specification.")],
    resume: Annotated[str | None, typer.Option(help="A job with this specification that did not end well.")] = None,
    wait: WaitOption = True,
    json_output: JsonOption = False,
) -> None:
    """Search the fields of a training specification, and register the best trial."""
    with connect() as client:
        job = client.jobs.tune(spec, resume=resume)
        done = follow_job(client, job, quiet=json_output) if wait else job
        table = client.jobs.trials(job.id) if wait else None
    if json_output:
        print_json(done.model_dump(mode="json"))
        return
    if table is not None:
        print_trials(table)
    facts = {"state": done.state, "model version": done.result.get("model_version", "")}
    print_facts(f"Job {done.id}", {key: value for key, value in facts.items() if value})
    if not done.state.final:
        console.print(f"See its trials with: lightmill jobs trials {done.id}")


def trials(
    job: JobArgument,
    limit: Annotated[int, typer.Option(min=1, help="How many rows, the best first.")] = SHOWN,
    json_output: JsonOption = False,
) -> None:
    """Show the trials of a tuning job, the best first."""
    with connect() as client:
        table = client.jobs.trials(job)
    if json_output:
        print_json(table.model_dump(mode="json"))
        return
    print_trials(table, limit)


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The id of a job that trained a model version.")],
    folder: Annotated[Path, typer.Option(help="Where the run's own modules lie.")] = Path(),
    wait: WaitOption = True,
    json_output: JsonOption = False,
) -> None:
    """Do a run again and compare the weights; ends with exit code 1 if they differ. Registers nothing."""
    with connect() as client:
        job = client.jobs.replay(run, folder=folder)
        done = follow_job(client, job, quiet=json_output) if wait else job
    if not wait:
        _print_started(done, json_output)
        return
    report = ReplayReport.model_validate(done.result)
    if json_output:
        print_json(report.model_dump(mode="json"))
    else:
        print_report(report)
    if not report.equal:
        raise typer.Exit(UNEQUAL)


def print_report(report: ReplayReport) -> None:
    """Print what a replay came to, with a table of what is not as it was."""
    said = "equal: the same bits came out" if report.equal else "different"
    facts = {"version": report.version, "dataset": report.dataset, "deterministic": report.deterministic}
    print_facts(f"Replay of {report.run}", {**facts, "weights": said, "then": report.digest, "now": report.found})
    if report.differences:
        rows = [(one.what, one.then, one.now, "yes" if one.matters else "") for one in report.differences]
        print_table("Not as it was", ("what", "then", "now", "changes bits"), rows)
    if report.metrics and not report.equal:
        rows = [(name, _number(then), _number(now)) for name, (then, now) in sorted(report.metrics.items())]
        print_table("Metrics of the best epoch", ("metric", "then", "now"), rows)
    if not report.equal and not report.deterministic:
        console.print("The run was not deterministic; `deterministic: true` gives the same bits on the same hardware.")


def _print_started(job: Job, json_output: bool) -> None:
    if json_output:
        print_json(job.model_dump(mode="json"))
        return
    console.print(f"Job {escape(job.id)} began; follow it with: lightmill jobs logs --follow {escape(job.id)}")


def print_trials(table: TrialTable, limit: int = SHOWN) -> None:
    """Print trials, the best first."""
    paths = list(dict.fromkeys(path for trial in table.trials for path in trial.values))
    short = {path: path.removeprefix("architecture.arguments.") for path in paths}
    ranked = list(table.ranked())
    rows = [_row(trial, paths) for trial in ranked[:limit]]
    ended = sum(trial.ended and trial.state != "refused" for trial in table.trials)
    title = f"Trials of {table.job}: {ended} of {table.wanted} ended, {table.algorithm}, {table.mode} {table.metric}"
    print_table(title, ("trial", "state", table.metric, "epoch", "parameters", *short.values(), "why"), rows)
    if len(ranked) > limit:
        console.print(f"{len(ranked) - limit} more; see them with --limit {len(ranked)}.")


def _row(trial: Trial, paths: list[str]) -> tuple[object, ...]:
    values = trial.best_values or trial.values
    epoch = "" if trial.best_epoch is None else f"{trial.best_epoch} of {trial.epochs}"
    parameters = "" if trial.parameters is None else f"{trial.parameters:,}"
    shown = (_number(values.get(path)) for path in paths)
    return (trial.number, trial.state, _number(trial.metric), epoch, parameters, *shown, trial.reason)


def _number(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
