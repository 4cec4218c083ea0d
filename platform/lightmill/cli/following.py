"""Progress of jobs and endpoints in the terminal."""

from __future__ import annotations

from lightmill.cli.output import notes
from lightmill.records.endpoints import Endpoint
from lightmill.records.jobs import Job
from lightmill.sdk import Client, JobBar, progress_bars


def follow_job(client: Client, job: Job, *, quiet: bool) -> Job:
    """Wait for a job, with a bar that says what it does, how fast, and, for training, the last metrics."""
    if quiet:
        return client.jobs.wait(job.id)
    with JobBar(notes) as bar:
        return client.jobs.wait(job.id, on_progress=bar.show)


def follow_endpoint(client: Client, name: str, *, quiet: bool) -> Endpoint:
    """Wait until an endpoint answers."""
    if quiet:
        return client.endpoints.wait(name)
    with progress_bars(notes) as bar:
        task = bar.add_task(f"deploy {name}", total=None, count="", detail="pending")

        def show(now: Endpoint) -> None:
            bar.update(task, detail=f"{now.state}, {now.replicas} replicas")

        endpoint = client.endpoints.wait(name, on_progress=show)
        bar.update(task, completed=1, total=1, detail="ready")
    return endpoint
