"""Specifications: what a user asks for, read from YAML or sent as JSON.

An unknown key, a missing key or a wrong type is one RequestError that names the key, the value and the
remedy.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from lightmill.errors import NotFoundError, RequestError
from lightmill.records.access import AccessSpec, EndpointLimits
from lightmill.records.balancing import NOT_AT_ENDPOINTS, Balancing, BalancingSpec
from lightmill.records.base import Record
from lightmill.records.batching import BatchingSpec
from lightmill.records.graphs import GraphNode, check_size
from lightmill.records.logs import LogSpec
from lightmill.records.multiplexing import ModelsSpec
from lightmill.records.parallel import ParallelSpec, SplitSpec
from lightmill.records.references import check_alias, check_name, parse_reference
from lightmill.records.scaling import ReplicasSpec
from lightmill.records.signature import Architecture
from lightmill.records.splitting import DistributionSpec
from lightmill.records.traffic import TrafficSpec
from lightmill.records.training import (
    CheckpointSpec,
    DdpSpec,
    EarlyStoppingSpec,
    FailureSpec,
    Optimizer,
    OptimizerSpec,
    Precision,
    Schedule,
    ScheduleSpec,
    StartSpec,
    StrategySpec,
    WatchSpec,
    WorkerRange,
    worker_range,
)
from lightmill.records.tuned import TuningSpec

SPEC_MAX_BYTES = 1 << 20
ObjectiveName = Literal["cross_entropy", "bce", "mse", "mae", "huber", "causal_lm", "custom"]
SpecT = TypeVar("SpecT", bound="Spec")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_KEY = re.compile(rf"([a-z0-9.-]{{1,253}}/)?{_LABEL_VALUE.pattern}")


class Spec(Record):
    """Base of the specifications, each of which has a name."""


class WorkerResources(Record):
    """What each training worker asks Ray for. `gpus: auto` takes one GPU each where the cluster has them.

    `wait_for_nodes_s` asks the autoscaler for what is missing and waits so many seconds for it, instead of
    refusing at once. `labels` are those that a worker's node must have, `spread` keeps workers on different nodes where
    it can. Workers that ask for part of a GPU share it.
    """

    cpus: float = Field(default=1.0, gt=0)
    gpus: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    wait_for_nodes_s: float = Field(default=0.0, ge=0)
    labels: dict[str, str] = Field(default_factory=dict)
    spread: bool = False

    @field_validator("gpus")
    @classmethod
    def _whole_gpus(cls, value: float | str) -> float | str:
        if isinstance(value, float) and value > 1 and value % 1:
            raise ValueError(f"{value:g} GPUs are no whole number; ask for part of one GPU, or for whole ones")
        return value

    @field_validator("labels")
    @classmethod
    def _labels(cls, value: dict[str, str]) -> dict[str, str]:
        for key, text in value.items():
            if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(text):
                raise ValueError(
                    f"{key}: {text} is no label of Ray; a key and a value have letters, digits, '-', '_' and '.', and "
                    "begin and end with a letter or a digit"
                )
        return value


class TrainSpec(Spec):
    """`train.yaml`: a dataset, an architecture and how to optimize it.

    `objective` is what is minimized. `batch_size` counts the rows of one step over all workers, `accumulate` the parts
    in which a worker computes its share of them. `workers` is a number, or a range such as `2..8` that the run shrinks
    and grows in. `distribution` says which worker gets which rows; without it they are dealt at random. `target` names
    the kept source column that a regression predicts. `deterministic` asks torch for the same bits in every run.
    `alias` is moved to the new version.
    """

    model: str
    dataset: str
    architecture: Architecture
    start: StartSpec | None = None
    objective: ObjectiveName = "cross_entropy"
    objective_arguments: dict[str, float | str | bool | list[float]] = Field(default_factory=dict)
    target: str | None = None
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    metrics: tuple[str, ...] = ()
    epochs: int = Field(default=10, ge=1, le=100_000)
    batch_size: int = Field(default=64, ge=1)
    accumulate: int = Field(default=1, ge=1)
    optimizer: Optimizer = OptimizerSpec()
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    l1: float = Field(default=0.0, ge=0)
    schedule: Schedule = ScheduleSpec()
    clip_norm: float | None = Field(default=None, gt=0)
    precision: Precision = "fp32"
    checkpoint_activations: bool = False
    compile: bool = False
    ema: float | None = Field(default=None, gt=0, lt=1)
    early_stopping: EarlyStoppingSpec | None = None
    seed: int = 0
    deterministic: bool = False
    workers: int | str = 2
    strategy: StrategySpec = DdpSpec()
    distribution: DistributionSpec | None = None
    resources: WorkerResources = WorkerResources()
    checkpoints: CheckpointSpec = CheckpointSpec()
    failures: FailureSpec = FailureSpec()
    watch: WatchSpec = WatchSpec()
    alias: str | None = "champion"

    @field_validator("model")
    @classmethod
    def _model(cls, value: str) -> str:
        return check_name(value, "model")

    @field_validator("alias")
    @classmethod
    def _alias(cls, value: str | None) -> str | None:
        return None if value is None else check_alias(value)

    @field_validator("dataset")
    @classmethod
    def _dataset(cls, value: str) -> str:
        return str(parse_reference(value))

    @field_validator("workers")
    @classmethod
    def _workers(cls, value: int | str) -> int | str:
        found = worker_range(value)
        return str(found) if found.elastic else found.min

    @property
    def worker_range(self) -> WorkerRange:
        """How many workers: the fewest and the most."""
        return worker_range(self.workers)

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions of a user's own code that the specification names, `package.module:function`."""
        loss = self.objective_arguments.get("function") if self.objective == "custom" else None
        return tuple(found for found in (self.architecture.entrypoint, loss) if isinstance(found, str))

    @model_validator(mode="after")
    def _divides(self) -> Self:
        most = self.worker_range.max
        if not self.worker_range.elastic and self.batch_size % most:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide by workers {most}; use a multiple of {most}"
            )
        if self.batch_size < most:
            raise ValueError(
                f"batch_size {self.batch_size} leaves some of {most} workers without rows; use at least {most}"
            )
        return self


class ReplicaResources(Record):
    """What each replica asks Ray for."""

    cpus: float = Field(default=0.25, gt=0)
    gpus: float = Field(default=0, ge=0)
    threads: int = Field(default=1, ge=1)


class EndpointSpec(Spec):
    """`endpoint.yaml`: which model version answers, with how many replicas, and how requests are spread over them.

    `parallel` divides the model of each replica over several processes; `split` divides large requests over replicas.
    `models` are further ones that it answers with. With a `graph` of other endpoints there is no model, and nothing
    else is set: it has no replicas of its own.
    """

    name: str
    model: str = ""
    replicas: ReplicasSpec = ReplicasSpec()
    batching: BatchingSpec = BatchingSpec()
    balancing: Balancing = BalancingSpec()
    resources: ReplicaResources = ReplicaResources()
    access: AccessSpec = AccessSpec()
    limits: EndpointLimits = EndpointLimits()
    log: LogSpec = LogSpec()
    parallel: ParallelSpec | None = None
    split: SplitSpec | None = None
    graph: GraphNode | None = None
    models: ModelsSpec | None = None
    tuning: TuningSpec = TuningSpec()
    traffic: TrafficSpec | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value, "endpoint")

    @field_validator("model")
    @classmethod
    def _model(cls, value: str) -> str:
        return str(parse_reference(value, default="champion")) if value else value

    @field_validator("balancing")
    @classmethod
    def _balancing(cls, value: BalancingSpec) -> BalancingSpec:
        if value.name in NOT_AT_ENDPOINTS:
            raise ValueError(f"{value.name!r} cannot be done for an endpoint yet; choose hash, least_loaded or another")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.graph is None:
            if not self.model:
                raise ValueError("key 'model' is missing; name a model version, such as digits@champion, or a graph")
            return self
        check_size(self.graph)
        fields = [name for name in type(self).model_fields if name not in ("name", "graph")]
        more = [name for name in fields if getattr(self, name) != type(self).model_fields[name].default]
        if more:
            raise ValueError(
                f"a graph has no replicas and no model of its own, so that {', '.join(more)} would do nothing; set "
                f"{'it' if len(more) == 1 else 'them'} at the endpoints that it calls"
            )
        return self

    @model_validator(mode="after")
    def _many(self) -> Self:
        more = [name for name in ("parallel", "split", "traffic") if getattr(self, name)]
        more += ["log.predictions"] if self.log.predictions.sample else []
        more += ["tuning"] if self.tuning.compile or self.tuning.channels_last else []
        if self.models and more:
            raise ValueError(f"models and {more[0]} do not go together; leave one of them out")
        return self

    @model_validator(mode="after")
    def _shared(self) -> Self:
        if self.parallel and self.resources.gpus % 1:
            raise ValueError(
                f"resources.gpus is {self.resources.gpus:g}, and with parallel each rank needs whole GPUs, or none"
            )
        if self.parallel and self.tuning != TuningSpec():
            raise ValueError("parallel and tuning do not go together; leave one of them out")
        if self.split and self.replicas.max < 2:
            raise ValueError("split divides requests over replicas, and replicas.max is 1; raise it or leave split out")
        return self

    @model_validator(mode="after")
    def _promotable(self) -> Self:
        canary = self.traffic.canary if self.traffic else None
        if canary is None or canary.canary is None or canary.canary.on_success != "promote":
            return self
        followed, next_one = parse_reference(self.model), parse_reference(canary.model)
        if followed.alias is None:
            raise ValueError(
                f"model {self.model} is no alias, so that the canary {canary.name!r} cannot be promoted by moving it; "
                "follow an alias such as champion, or set on_success: hold"
            )
        if followed.name != next_one.name:
            raise ValueError(
                f"candidate {canary.name!r} is a version of {next_one.name!r}, and alias {self.model} cannot move to "
                f"it; name a version of {followed.name!r}, or set on_success: hold"
            )
        return self


def parse_spec(kind: type[SpecT], value: Any, where: str) -> SpecT:
    """Return the specification that `value` holds; `where` names it in errors.

    Raises:
        RequestError: A key is unknown or missing, or a value has the wrong type or range.
    """
    if not isinstance(value, dict):
        raise RequestError(f"{where} must hold keys and values, but holds {type(value).__name__}.")
    try:
        return kind.model_validate(value)
    except ValidationError as exc:
        raise RequestError(f"{where} is not a valid {kind.__name__}: {_first_problems(exc, kind, value)}") from exc


def read_spec_file(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        NotFoundError: There is no such file.
        RequestError: It is no YAML mapping, or larger than 1 MiB.
    """
    if not path.is_file():
        raise NotFoundError(f"No file at {path}. Give the path of a YAML specification.")
    if path.stat().st_size > SPEC_MAX_BYTES:
        raise RequestError(f"{path} has {path.stat().st_size} bytes; a specification has at most 1 MiB.")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise RequestError(f"{path} is not valid YAML: {str(exc).splitlines()[0]}") from exc
    if not isinstance(value, dict):
        raise RequestError(f"{path} must hold keys and values, but holds {type(value).__name__}.")
    return value


def load_spec(kind: type[SpecT], path: Path) -> SpecT:
    """Read a specification from a YAML file; see `read_spec_file` and `parse_spec` for the errors."""
    return parse_spec(kind, read_spec_file(path), str(path))


def _place(loc: tuple[int | str, ...], value: Any, *, missing: bool) -> list[int | str]:
    """Return where in `value` a problem is, without the names that pydantic puts in for members of a union."""
    found: list[int | str] = []
    for position, part in enumerate(loc):
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            if not missing or position + 1 < len(loc):
                continue
        found.append(part)
    return found


def _first_problems(exc: ValidationError, kind: type[Spec], value: Any, most: int = 3) -> str:
    """Describe the first problems: which key, which value, what is expected."""
    lines = []
    for problem in exc.errors()[:most]:
        key = ".".join(map(str, _place(problem["loc"], value, missing=problem["type"] == "missing")))
        if problem["type"] == "extra_forbidden":
            known = ", ".join(sorted(kind.model_fields)) if len(problem["loc"]) == 1 else ""
            lines.append(f"unknown key {key!r}" + (f" (known keys: {known})" if known else ""))
        elif problem["type"] == "missing":
            lines.append(f"key {key!r} is missing")
        else:
            given = repr(problem["input"])
            shown = given if len(given) <= 80 else given[:77] + "..."
            lines.append(f"{key or 'it'}: {problem['msg']}" + (f" (given {shown})" if key else ""))
    return "; ".join(lines) + "."
