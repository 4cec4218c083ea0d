"""Jobs: one unit of work each, run as a Ray job."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from lightmill.records.base import Record


class JobKind(StrEnum):
    """What a job does; each is a file in `jobs/`."""

    INGEST = "ingest"
    TRAIN = "train"
    TUNE = "tune"
    REPLAY = "replay"


class JobState(StrEnum):
    """The states of a job. The last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether the job will not change any more."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Progress(Record):
    """How far a job is. `done` and `total` count `unit`s; a total of 0 means unknown.

    `rate` is in units a second over the phase so far, `eta_s` the seconds that the phase will take yet; None where it
    cannot be told. `metrics` are the newest that were measured.
    """

    phase: str = "waiting"
    done: int = 0
    total: int = 0
    unit: str = "steps"
    bytes_done: int = 0
    bytes_total: int = 0
    rate: float | None = None
    eta_s: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)

    def __str__(self) -> str:
        """Return it as a line of a log, such as `seal 5000/20000 rows, 1200 rows/s, 12 s left`."""
        of = f"/{self.total}" if self.total else ""
        said = [f"{self.phase} {self.done}{of} {self.unit}" if self.total or self.done else self.phase]
        if self.rate is not None:
            said.append(f"{self.rate:,.0f} {self.unit}/s")
        if self.eta_s is not None:
            said.append(f"{self.eta_s:,.0f} s left")
        said += [f"{name} {value:.4g}" for name, value in self.metrics.items()]
        return ", ".join(said)


class Job(Record):
    """One job. `result` is what the job printed as its last line, when it succeeded."""

    id: str
    kind: JobKind
    name: str
    state: JobState = JobState.PENDING
    spec: dict[str, object] = Field(default_factory=dict)
    message: str = ""
    progress: Progress = Progress()
    result: dict[str, object] = Field(default_factory=dict)
    submission_id: str | None = None
    created: str = ""
    started: str | None = None
    finished: str | None = None


class EpochMetrics(Record):
    """The metrics of one epoch of a run, as the terminal and the notebook plot them."""

    run: str
    epoch: int
    metrics: dict[str, float]
    created: str


class StepMetrics(Record):
    """What was measured over the steps that ended with step `step` of a run, counted from 1 over all epochs."""

    run: str
    step: int
    epoch: int
    metrics: dict[str, float]
    created: str


class RunMetrics(Record):
    """The metrics of a run: of every epoch, and of steps, at most STEP_POINTS_MAX of them."""

    run: str = ""
    epochs: tuple[EpochMetrics, ...] = ()
    steps: tuple[StepMetrics, ...] = ()


STEP_POINTS_MAX = 10_000
"""Where a run has more points than this, half of them or more are dropped, evenly over its steps."""
