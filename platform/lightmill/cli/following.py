"""Progress of jobs and endpoints in the terminal."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from lightmill.cli.output import notes
from lightmill.records.endpoints import Endpoint
from lightmill.records.jobs import EpochMetrics, Job
from lightmill.sdk import Client


def follow_job(client: Client, job: Job, *, quiet: bool) -> Job:
    """Wait for a job, with a bar that says what it does and, for training, the last metrics."""
    if quiet:
        return client.jobs.wait(job.id)
    with progress_bar() as bar:
        task = bar.add_task(f"{job.kind} {job.name}", total=None, detail="waiting")

        def show(now: Job, epochs: list[EpochMetrics]) -> None:
            total = now.progress.total or None
            bar.update(task, completed=now.progress.done, total=total, detail=_detail(now, epochs))

        done = client.jobs.wait(job.id, on_progress=show)
        bar.update(task, completed=done.progress.total or 1, total=done.progress.total or 1, detail="done")
    return done


def follow_endpoint(client: Client, name: str, *, quiet: bool) -> Endpoint:
    """Wait until an endpoint answers."""
    if quiet:
        return client.endpoints.wait(name)
    with progress_bar() as bar:
        task = bar.add_task(f"deploy {name}", total=None, detail="pending")

        def show(now: Endpoint) -> None:
            bar.update(task, detail=f"{now.state}, {now.replicas} replicas")

        endpoint = client.endpoints.wait(name, on_progress=show)
        bar.update(task, completed=1, total=1, detail="ready")
    return endpoint


def _detail(job: Job, epochs: list[EpochMetrics]) -> str:
    if not epochs or job.progress.phase != "train":
        return job.progress.phase if job.started else str(job.state)
    last = epochs[-1].metrics
    return f"loss {last['loss']:.4f}  accuracy {last['validation_accuracy']:.4f}"


def progress_bar() -> Progress:
    """Return a bar on standard error whose tasks have a field `detail`."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
        console=notes,
    )
