"""A simulated endpoint: what arrives, what a replica can do, and what each policy made of it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lightmill.records.balancing import Balancing, BalancingSpec
from lightmill.records.base import Record
from lightmill.records.batching import BatchingSpec
from lightmill.records.scaling import QueuePolicy, ReplicasSpec, ScalingPolicy

MOST_REQUESTS = 20_000_000


class ConstantTrace(Record):
    """Arrivals without memory at `rate` requests a second."""

    kind: Literal["constant"] = "constant"
    rate: float = Field(gt=0)
    duration_s: float = Field(gt=0)


class DiurnalTrace(Record):
    """Arrivals that swing from `low` to `rate` requests a second and back in each `period_s`, as a sine does."""

    kind: Literal["diurnal"] = "diurnal"
    rate: float = Field(gt=0)
    low: float = Field(default=0.0, ge=0)
    period_s: float = Field(gt=0)
    duration_s: float = Field(gt=0)


class SpikeTrace(Record):
    """Arrivals at `low` requests a second, and at `rate` for `length_s` from `at_s` on."""

    kind: Literal["spike"] = "spike"
    rate: float = Field(gt=0)
    low: float = Field(default=0.0, ge=0)
    at_s: float = Field(ge=0)
    length_s: float = Field(gt=0)
    duration_s: float = Field(gt=0)


class FileTrace(Record):
    """Arrivals of an access log: common or combined log format, or JSON lines with a time in `field`; gz too.

    `speed` replays faster than it happened: 2 makes twice as many a second. `most` takes the first so many.
    """

    kind: Literal["file"] = "file"
    path: str
    field: str = ""
    speed: float = Field(default=1.0, gt=0)
    most: int = Field(default=1_000_000, ge=1, le=MOST_REQUESTS)


Trace = Annotated[ConstantTrace | DiurnalTrace | SpikeTrace | FileTrace, Field(discriminator="kind")]


class SimulatedService(Record):
    """A replica: a batch of n rows takes `batch_ms` + n * `row_ms`, by chance more or less.

    `jitter` is the deviation of that time's logarithm. `slow` are factors of time for the first replicas, such as [4,
    1].
    """

    batch_ms: float = Field(default=5.0, ge=0)
    row_ms: float = Field(default=1.0, ge=0)
    jitter: float = Field(default=0.1, ge=0, le=2)
    start_s: float = Field(default=30.0, ge=0)
    slow: tuple[Annotated[float, Field(gt=0)], ...] = ()


class SimulationSpec(Record):
    """What to simulate. Each policy meets the same arrivals and the same chance, by `seed`.

    A request misses its objective if it takes more than `slo_ms`, or is refused. What happens before `skip_s` is not
    counted, so that a forecast has something to learn from. `fixed` compares with `replicas.max` all the time. `keys`
    is how many different keys requests have, which `hash` and `prefix` go by, some much more often than others.
    """

    trace: Trace
    service: SimulatedService = SimulatedService()
    replicas: ReplicasSpec = ReplicasSpec(max=10)
    batching: BatchingSpec = BatchingSpec()
    balancing: Balancing = BalancingSpec()
    policies: tuple[ScalingPolicy, ...] = (QueuePolicy(),)
    fixed: bool = True
    slo_ms: float = Field(default=200.0, gt=0)
    skip_s: float = Field(default=0.0, ge=0)
    seed: int = 0
    keys: int = Field(default=0, ge=0, le=1_000_000)

    @model_validator(mode="after")
    def _feasible(self) -> Self:
        trace = self.trace
        if not isinstance(trace, FileTrace):
            most = trace.rate * trace.duration_s
            if most > MOST_REQUESTS:
                raise ValueError(f"{most:,.0f} requests are more than {MOST_REQUESTS:,}; simulate less time")
            if self.skip_s >= trace.duration_s:
                raise ValueError(f"skip_s {self.skip_s:g} leaves nothing of {trace.duration_s:g} s to count")
        return self


class SimulationPoint(Record):
    """A part of the time: when it begins, requests a second, mean replicas, and the share that missed."""

    at_s: float
    requests_per_s: float
    replicas: float
    missed: float


class SimulatedPolicy(Record):
    """What one policy cost and missed; `replica_s` counts a replica from when it begins to start until it is gone."""

    policy: str
    requests: int
    refused: int
    missed: int
    p50_ms: float
    p99_ms: float
    replica_s: float
    mean_replicas: float
    most_replicas: int
    changes: int
    points: tuple[SimulationPoint, ...] = ()


class SimulationReport(Record):
    """All policies on one trace."""

    requests: int
    duration_s: float
    slo_ms: float
    policies: tuple[SimulatedPolicy, ...]
