"""ingest, train, and the jobs that they start."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from lightmill.cli import curves, tuning
from lightmill.cli.following import follow_job
from lightmill.cli.output import JsonOption, console, print_facts, print_json, print_table
from lightmill.records.jobs import Job
from lightmill.records.tuning import TrialTable
from lightmill.sdk import connect

LOG_POLL_S = 1.0
SpecArgument = Annotated[Path, typer.Argument(help="The YAML specification.")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the job has ended.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("ingest")(ingest)
    app.command("train")(train)
    group = typer.Typer(help="Jobs: list, show, watch, metrics, logs, cancel, trials, replay.", no_args_is_help=True)
    group.command("list")(list_jobs)
    group.command("show")(show)
    group.command("watch")(watch)
    group.command("metrics")(curves.of_job)
    group.command("logs")(logs)
    group.command("cancel")(cancel)
    tuning.add_to(app, group)
    app.add_typer(group, name="jobs")


def ingest(spec: SpecArgument, wait: WaitOption = True, json_output: JsonOption = False) -> None:
    """Ingest a source into a new sealed dataset version."""
    with connect() as client:
        job = client.jobs.ingest(spec)
        done = follow_job(client, job, quiet=json_output) if wait else job
    _print_job(done, json_output)


def train(spec: SpecArgument, wait: WaitOption = True, json_output: JsonOption = False) -> None:
    """Train a model and register its best checkpoint."""
    with connect() as client:
        job = client.jobs.train(spec)
        done = follow_job(client, job, quiet=json_output) if wait else job
    _print_job(done, json_output)


def list_jobs(limit: Annotated[int, typer.Option(min=1, max=1000)] = 20, json_output: JsonOption = False) -> None:
    """List the newest jobs."""
    with connect() as client:
        jobs = client.jobs.list(limit)
    if json_output:
        print_json([job.model_dump(mode="json") for job in jobs])
        return
    rows = [(job.id, job.kind, job.name, job.state, _progress(job), job.created) for job in jobs]
    print_table("Jobs", ("id", "kind", "name", "state", "progress", "created"), rows)


def show(id: str, json_output: JsonOption = False) -> None:
    """Show one job and, for training, its metrics."""
    with connect() as client:
        job = client.jobs.show(id)
        epochs = client.jobs.metrics(id)
    if json_output:
        print_json({**job.model_dump(mode="json"), "epochs": [e.model_dump(mode="json") for e in epochs]})
        return
    _print_job(job, json_output)
    if "tuning" in job.result:
        tuning.print_trials(TrialTable.model_validate(job.result["tuning"]))
    if epochs:
        names = list(epochs[-1].metrics)
        rows = [(e.epoch, *(f"{e.metrics.get(name, float('nan')):.4f}" for name in names)) for e in epochs]
        print_table("Epochs", ("epoch", *names), rows)


def watch(id: str, json_output: JsonOption = False) -> None:
    """Show how far a job is until it ends."""
    with connect() as client:
        done = follow_job(client, client.jobs.show(id), quiet=json_output)
    _print_job(done, json_output)


def logs(id: str, follow: Annotated[bool, typer.Option("--follow", "-f")] = False) -> None:
    """Print a job's log; with --follow, until the job ends."""
    with connect() as client:
        printed = 0
        while True:
            final = client.jobs.show(id).state.final
            text = client.jobs.logs(id)
            sys.stdout.write(text[printed:])
            sys.stdout.flush()
            printed = len(text)
            if final or not follow:
                return
            time.sleep(LOG_POLL_S)


def cancel(id: str, json_output: JsonOption = False) -> None:
    """Stop a job."""
    with connect() as client:
        job = client.jobs.cancel(id)
    _print_job(job, json_output)


def _progress(job: Job) -> str:
    at = job.progress
    return f"{at.phase} {at.done}/{at.total}" if at.total else at.phase


def _print_job(job: Job, json_output: bool) -> None:
    if json_output:
        print_json(job.model_dump(mode="json"))
        return
    facts = {"kind": job.kind, "name": job.name, "state": job.state, "created": job.created}
    if job.message:
        facts["message"] = job.message
    shown = {key: _short(value) for key, value in job.result.items() if key != "tuning"}
    print_facts(f"Job {job.id}", facts | shown)
    if not job.state.final:
        console.print(f"Follow it with: lightmill jobs logs --follow {job.id}")


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
    return str(value)
