"""What a training specification may choose: optimizer, schedule, parallelism, checkpoints, what is watched."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lightmill.records.base import Record

# -- optimization -------------------------------------------------------------

OptimizerName = Literal[
    "sgd", "adam", "adamw", "nadam", "radam", "adamax", "adagrad", "adadelta", "rmsprop", "asgd", "adafactor", "muon"
]
Precision = Literal["fp32", "bf16", "fp16"]


def _named(value: Any) -> Any:
    """Return a bare name as a record with that name."""
    return {"name": value} if isinstance(value, str) else value


class OptimizerSpec(Record):
    """An optimizer of `torch.optim` by its name in lower case; `arguments` are its own, such as `momentum`."""

    name: OptimizerName = "adamw"
    arguments: dict[str, float | bool | list[float]] = Field(default_factory=dict)


class ScheduleSpec(Record):
    """How the learning rate goes over the steps of a run, as a factor of `learning_rate`.

    `warmup_steps` (or `warmup_share` of all steps) rise linearly from 0; then `constant` stays 1, `linear` and `cosine`
    fall to `final` at the last step, `inverse_sqrt` falls as 1 / sqrt(step / warm-up), `exponential` is multiplied by
    `gamma` at the end of every epoch and `step` at the end of every `every_epochs` epochs.
    """

    name: Literal["constant", "linear", "cosine", "inverse_sqrt", "exponential", "step"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    warmup_share: float = Field(default=0.0, ge=0, lt=1)
    final: float = Field(default=0.0, ge=0, le=1)
    gamma: float = Field(default=0.9, gt=0, le=1)
    every_epochs: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_steps and self.warmup_share:
            raise ValueError("warmup_steps and warmup_share are both given; leave one out")
        return self


class EarlyStoppingSpec(Record):
    """Stop when `metric` has not improved by more than `min_delta` for `patience` epochs."""

    metric: str = "validation_loss"
    patience: int = Field(default=3, ge=1)
    min_delta: float = Field(default=0.0, ge=0)


# -- where a model starts -----------------------------------------------------


class LoraSpec(Record):
    """Low-rank adapters (E. J. Hu et al., 2021) on the linear layers whose names match a pattern of `targets`.

    Training changes the adapters only; the registered version has them merged.
    """

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ("*",)


class StartSpec(Record):
    """A registered version whose weights a run begins with.

    Parameters whose names match a pattern of `freeze` (as of shells: `blocks.0.*`) do not change. Tensors that match
    one of `skip` are drawn anew, such as a head for other classes.
    """

    model: str
    freeze: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    lora: LoraSpec | None = None


# -- parallelism --------------------------------------------------------------


class DdpSpec(Record):
    """Synchronous data parallelism: every worker has the whole model, gradients are averaged by all-reduce."""

    name: Literal["ddp"] = "ddp"
    bucket_mb: float = Field(default=25.0, gt=0)


class FsdpSpec(Record):
    """Parameters, gradients and optimizer state sharded over the workers (FSDP2).

    `reshard` frees the gathered parameters of a layer after its forward pass.
    """

    name: Literal["fsdp"] = "fsdp"
    reshard: bool = True


class TensorSpec(Record):
    """Tensor parallelism: each layer's matrices are split over `size` workers (0: all), data parallel beyond.

    `sequence` splits what lies between the matrices along the sequence as well.
    """

    name: Literal["tensor"] = "tensor"
    size: int = Field(default=0, ge=0)
    sequence: bool = False


class PipelineSpec(Record):
    """Pipeline parallelism: consecutive layers on `stages` workers (0: all), data parallel beyond.

    A worker's batch goes through in `microbatches`, which must divide it.
    """

    name: Literal["pipeline"] = "pipeline"
    stages: int = Field(default=0, ge=0)
    microbatches: int = Field(default=4, ge=1)
    schedule: Literal["gpipe", "1f1b"] = "1f1b"


class ContextSpec(Record):
    """Context parallelism: each row's tokens are split over `size` workers (0: all), data parallel beyond."""

    name: Literal["context"] = "context"
    size: int = Field(default=0, ge=0)


class HybridSpec(Record):
    """A mesh of data x pipeline x tensor parallel workers; `data` 0 is what the others leave."""

    name: Literal["hybrid"] = "hybrid"
    data: int = Field(default=0, ge=0)
    tensor: int = Field(default=1, ge=1)
    pipeline: int = Field(default=1, ge=1)
    microbatches: int = Field(default=4, ge=1)
    schedule: Literal["gpipe", "1f1b"] = "1f1b"
    shard: bool = False


Consistency = Literal["bsp", "asp", "ssp"]


class ParameterServerSpec(Record):
    """Parameters on `servers` actors, a shard each; workers pull them and push gradients.

    `bsp`: a step waits for the gradients of all workers. `asp`: nobody waits. `ssp`: a worker is at most `staleness`
    steps ahead of the slowest (Q. Ho et al., 2013). `accumulate`: the server applies the mean of so many gradients at
    a time (not for `bsp`).
    """

    name: Literal["parameter_server"] = "parameter_server"
    servers: int = Field(default=1, ge=1)
    consistency: Consistency = "bsp"
    staleness: int = Field(default=2, ge=0)
    accumulate: int = Field(default=1, ge=1)


class OuterOptimizerSpec(Record):
    """What is done with the mean of the workers' changes: SGD with Nesterov momentum; rate 1, momentum 0 averages."""

    learning_rate: float = Field(default=0.7, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True


class LocalSgdSpec(Record):
    """`local_steps` steps of each worker alone, then averaging with an outer optimizer.

    A. Douillard et al., "DiLoCo: Distributed low-communication training of language models" (2023).
    """

    name: Literal["local_sgd"] = "local_sgd"
    local_steps: int = Field(default=8, ge=1)
    outer: OuterOptimizerSpec = OuterOptimizerSpec()


class RingSpec(Record):
    """Gossip: after every `every_steps` steps each worker averages its parameters with those of its neighbour."""

    name: Literal["ring"] = "ring"
    every_steps: int = Field(default=1, ge=1)


class HybridSyncSpec(Record):
    """All-reduce inside groups of `group_size` workers, a parameter server between the groups."""

    name: Literal["hybrid_sync"] = "hybrid_sync"
    group_size: int = Field(default=2, ge=1)
    servers: int = Field(default=1, ge=1)
    consistency: Consistency = "asp"
    staleness: int = Field(default=2, ge=0)
    accumulate: int = Field(default=1, ge=1)


AnyStrategy = (
    DdpSpec
    | FsdpSpec
    | TensorSpec
    | PipelineSpec
    | ContextSpec
    | HybridSpec
    | ParameterServerSpec
    | LocalSgdSpec
    | RingSpec
    | HybridSyncSpec
)
StrategySpec = Annotated[Annotated[AnyStrategy, Field(discriminator="name")], BeforeValidator(_named)]
Optimizer = Annotated[OptimizerSpec, BeforeValidator(_named)]
Schedule = Annotated[ScheduleSpec, BeforeValidator(_named)]


# -- checkpoints, failures, what is watched -----------------------------------


class CheckpointSpec(Record):
    """When checkpoints are sealed and which stay.

    One is sealed after every epoch, and with `every_steps` after so many steps as well. Epochs that end within
    `pause_s` seconds of the last checkpoint are sealed with a later one: the best of them, and the last. Of those that
    were sealed, the `keep_best` by validation loss and the `keep_last` stay. `asynchronous`: training goes on while
    one is sealed.
    """

    every_steps: int = Field(default=0, ge=0)
    pause_s: float = Field(default=5.0, ge=0)
    keep_best: int = Field(default=2, ge=1)
    keep_last: int = Field(default=1, ge=1)
    asynchronous: bool = True


class FailureSpec(Record):
    """How often a run begins anew from its last checkpoint, by cause.

    `worker`: a worker failed or its node was lost. `preemption`: a node was taken back with notice; None is no limit.
    `controller`: the process that leads the workers failed, or they could not be placed.
    """

    worker: int = Field(default=2, ge=0)
    preemption: int | None = Field(default=None, ge=0)
    controller: int = Field(default=2, ge=0)


class MlflowSpec(Record):
    """Where metrics are logged to besides: MLflow's tracking URI and experiment."""

    tracking_uri: str
    experiment: str = "lightmill"

    @field_validator("tracking_uri")
    @classmethod
    def _no_secret(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it must be the address of a tracking server, such as http://127.0.0.1:5000")
        if parts.username or parts.password:
            raise ValueError("it must hold no password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
        return value


class WatchSpec(Record):
    """What is measured while training, and who else is told.

    `every_steps`: metrics of the steps since, besides those of epochs; 0 is none. `tensorboard`: event files in the
    run's folder on the driver's node, in plain. `profile_steps`: so many steps of the first worker are traced by
    torch's profiler, after the first ten; the trace is sealed with the version.
    """

    every_steps: int = Field(default=10, ge=0)
    tensorboard: bool = False
    mlflow: MlflowSpec | None = None
    profile_steps: int = Field(default=0, ge=0)


# -- how many workers ---------------------------------------------------------


class WorkerRange(Record):
    """How many workers: `min` to `max`, equal if the number is fixed."""

    min: int = Field(ge=1, le=4096)
    max: int = Field(ge=1, le=4096)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"{self.min}..{self.max} falls; write the smaller number first")
        return self

    @property
    def elastic(self) -> bool:
        """Whether the number may change while training."""
        return self.min < self.max

    def __str__(self) -> str:
        return f"{self.min}..{self.max}" if self.elastic else str(self.min)


def worker_range(value: int | str) -> WorkerRange:
    """Read a number of workers, or a range such as `2..8`.

    Raises:
        ValueError: It is neither.
    """
    low, dots, high = str(value).partition("..")
    if not low.strip().isdecimal() or (dots and not high.strip().isdecimal()):
        raise ValueError(f"{value!r} is no number of workers; write one such as 4, or a range such as 2..8")
    return WorkerRange(min=int(low), max=int(high or low))
