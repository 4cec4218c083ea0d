"""Jobs: one unit of work each, run as a Ray job."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from lightmill.records.base import Record


class JobKind(StrEnum):
    """What a job does; each is a file in `jobs/`."""

    INGEST = "ingest"
    TRAIN = "train"


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
    """How far a job is. `done` and `total` count `unit`s; a total of 0 means unknown."""

    phase: str = "waiting"
    done: int = 0
    total: int = 0
    unit: str = "steps"


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
