"""Jobs: start them, follow them, stop them."""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable
from pathlib import Path

from lightmill.errors import JobError, UnavailableError
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.jobs import EpochMetrics, Job, JobKind, JobState, RunMetrics, StepMetrics
from lightmill.records.specs import TrainSpec
from lightmill.records.tuning import TrialTable, TuneSpec
from lightmill.sdk.curves import MetricsView, notebook_display
from lightmill.sdk.progress import JobBar
from lightmill.sdk.specs import SpecLike, as_json, read_spec
from lightmill.sdk.transport import Transport, path

POLL_S = 0.3
DRAW_S = 2.0
OUTAGE_S = 30.0
OnProgress = Callable[[Job, list[EpochMetrics]], None]


class Jobs:
    """The platform's jobs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def ingest(self, spec: SpecLike) -> Job:
        """Start an ingest job from `dataset.yaml`, or from a mapping of the same form."""
        parsed, folder = read_spec(DatasetSpec, spec)
        return self._submit(JobKind.INGEST, as_json(parsed), folder)

    def train(self, spec: SpecLike) -> Job:
        """Start a training job from `train.yaml`, or from a mapping of the same form."""
        parsed, folder = read_spec(TrainSpec, spec)
        return self._submit(JobKind.TRAIN, as_json(parsed), folder)

    def tune(self, spec: SpecLike, *, resume: str | None = None) -> Job:
        """Start a tuning job from `tune.yaml`, or from a mapping of the same form.

        `resume` is the id of a job with the same specification that did not end well; its trials are gone on with.
        """
        parsed, folder = read_spec(TuneSpec, spec)
        return self._submit(JobKind.TUNE, as_json(parsed), folder, resume)

    def trials(self, id: str) -> TrialTable:
        """Return the trials of a tuning job, while it runs and after; NotFoundError if it has none."""
        return TrialTable.model_validate(self._transport.get(path("jobs", id, "trials")))

    def replay(self, run: str, *, folder: str | Path = ".") -> Job:
        """Start a job that does a training run again and compares the weights; its result is a `ReplayReport`.

        `folder` is where the run's own modules lie, and where git says which code it is.

        Raises:
            NotFoundError: There is no such run, or its model version is gone.
            RequestError: It cannot be replayed.
        """
        body = {"folder": str(Path(folder).absolute())}
        return Job.model_validate(self._transport.post(path("jobs", run, "replay"), body))

    def _submit(self, kind: JobKind, spec: dict[str, object], folder: str, resume: str | None = None) -> Job:
        body = {"kind": kind, "spec": spec, "folder": folder} | ({"resume": resume} if resume else {})
        return Job.model_validate(self._transport.post(path("jobs"), body))

    def list(self, limit: int = 50) -> list[Job]:
        """Return the newest jobs."""
        return [Job.model_validate(entry) for entry in self._transport.get(path("jobs"), limit=limit)]

    def show(self, id: str) -> Job:
        """Return one job; NotFoundError if there is none."""
        return Job.model_validate(self._transport.get(path("jobs", id)))

    def metrics(self, id: str) -> list[EpochMetrics]:
        """Return the metrics of a training job, epoch by epoch, while it runs and after."""
        found = self._transport.get(path("jobs", id, "metrics"))
        return [EpochMetrics.model_validate(entry) for entry in found]

    def steps(self, id: str, *, after: int = 0) -> builtins.list[StepMetrics]:
        """Return the points of steps of a training job: those after step `after`, while it runs and afterwards."""
        found = self._transport.get(path("jobs", id, "metrics", "steps"), after=after)
        return [StepMetrics.model_validate(entry) for entry in found]

    def curves(self, id: str) -> MetricsView:
        """Return all metrics of a training job, which a notebook shows as plots."""
        record = RunMetrics(run=id, epochs=tuple(self.metrics(id)), steps=tuple(self.steps(id)))
        page = self._transport.send("GET", path("jobs", id, "metrics.html")).text
        return MetricsView(record=record, title=id, page=page)

    def watch(self, id: str, *, timeout_s: float | None = None) -> Job:
        """Return a job when it has succeeded; meanwhile a notebook draws its metrics, a terminal shows a bar.

        Errors as `wait`.
        """
        display = notebook_display()
        if display is None:
            with JobBar() as bar:
                return self.wait(id, on_progress=bar.show, timeout_s=timeout_s)
        shown = display(self.curves(id), display_id=True)
        drawn = time.monotonic()

        def draw(job: Job, epochs: builtins.list[EpochMetrics]) -> None:
            nonlocal drawn
            del epochs
            if job.kind is JobKind.TRAIN and (job.state.final or time.monotonic() - drawn >= DRAW_S):
                drawn = time.monotonic()
                shown.update(self.curves(id))

        return self.wait(id, on_progress=draw, timeout_s=timeout_s)

    def logs(self, id: str) -> str:
        """Return a job's log so far."""
        return self._transport.send("GET", path("jobs", id, "logs")).text

    def cancel(self, id: str) -> Job:
        """Stop a job; ConflictError if it has ended."""
        return Job.model_validate(self._transport.post(path("jobs", id, "cancel")))

    def wait(self, id: str, *, on_progress: OnProgress | None = None, timeout_s: float | None = None) -> Job:
        """Return a job when it has succeeded, calling `on_progress` while it runs.

        Raises:
            JobError: The job failed or was cancelled; the message says why.
            UnavailableError: It did not end within `timeout_s`, or the platform went away.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        answered = time.monotonic()
        while True:
            try:
                job = self.show(id)
                if on_progress:
                    epochs = self.metrics(id) if job.kind in (JobKind.TRAIN, JobKind.REPLAY) else []
                    on_progress(job, epochs)
                answered = time.monotonic()
            except UnavailableError:
                if time.monotonic() - answered > OUTAGE_S:
                    raise
                time.sleep(POLL_S)
                continue
            if job.state is JobState.SUCCEEDED:
                return job
            if job.state.final:
                raise JobError(f"Job {id} {job.state}: {job.message or 'see its log'}")
            if end and time.monotonic() > end:
                raise UnavailableError(f"Job {id} is still {job.state} after {timeout_s:g} s; it goes on.")
            time.sleep(POLL_S)
