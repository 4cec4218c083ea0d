"""Specifications: what a user asks for, read from YAML or sent as JSON.

An unknown key, a missing key or a wrong type is one RequestError that names the key, the value and the
remedy.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from lightmill.errors import NotFoundError, RequestError
from lightmill.records.base import Record
from lightmill.records.references import check_alias, check_name, parse_reference
from lightmill.records.signature import Architecture

SPEC_MAX_BYTES = 1 << 20
RESERVED_COLUMNS = {"row_id", "label", "features", "split"}
FAMILY_MAX = 100_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
SpecT = TypeVar("SpecT", bound="Spec")


class Spec(Record):
    """Base of the specifications, each of which has a name."""


class SourceSpec(Record):
    """Where the rows come from. A relative path is taken from the folder of the specification."""

    format: Literal["csv"] = "csv"
    path: str


class ColumnSpec(Record):
    """One column, or a numbered family of columns: `p{00..63}` stands for p00, p01, ... p63.

    `values` are the allowed ones, in the order that gives a label its class index.
    """

    name: str
    dtype: Literal["int64", "float64", "string"]
    role: Literal["feature", "label", "ignore"] = "feature"
    minimum: float | None = None
    maximum: float | None = None
    values: tuple[int | str, ...] | None = None
    tags: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found = _RANGE.search(self.name)
        if found and not 0 <= int(found[2]) - int(found[1]) < FAMILY_MAX:
            raise ValueError(f"the range in {self.name!r} must rise and hold at most {FAMILY_MAX} columns")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is more than maximum {self.maximum:g}")
        if self.values and len(set(map(str, self.values))) < len(self.values):
            raise ValueError(f"values {list(self.values)} holds one of them twice")
        if self.role == "feature" and self.dtype == "string":
            raise ValueError("a feature must be a number; give it role 'ignore', or encode it in the source")
        return self

    def names(self) -> tuple[str, ...]:
        """Return the column names that this entry stands for."""
        found = _RANGE.search(self.name)
        if not found:
            return (self.name,)
        first, last = found.groups()
        return tuple(
            f"{self.name[: found.start()]}{number:0{len(first)}d}{self.name[found.end() :]}"
            for number in range(int(first), int(last) + 1)
        )


class RulesSpec(Record):
    """What happens to a row that breaks the declared schema."""

    missing: Literal["drop", "fail"] = "fail"
    out_of_range: Literal["drop", "clip", "fail"] = "fail"
    duplicates: Literal["drop", "keep", "fail"] = "fail"


class SplitSpec(Record):
    """The shares of the three splits; they add up to 1. `stratify` keeps each class's share in every split."""

    train: float = Field(default=0.7, gt=0, lt=1)
    validation: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.2, gt=0, lt=1)
    stratify: bool = True
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        total = self.train + self.validation + self.test
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"the shares add up to {total:g}; make train + validation + test = 1")
        return self


class FeaturesSpec(Record):
    """The tensor that the feature columns form, in the order of the columns."""

    name: str = "features"
    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)


class PrepareSpec(Record):
    """One preparation step, fitted on the training split only."""

    step: Literal["standardize"]


class DatasetSpec(Spec):
    """`dataset.yaml`: a source, its declared schema, and how to clean, split and prepare it."""

    name: str
    description: str = ""
    licence: str = ""
    source: SourceSpec
    features: FeaturesSpec
    columns: tuple[ColumnSpec, ...] = Field(min_length=1)
    rules: RulesSpec = RulesSpec()
    split: SplitSpec = SplitSpec()
    prepare: tuple[PrepareSpec, ...] = ()
    keep_source_columns: bool = True

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value, "dataset")

    @model_validator(mode="after")
    def _columns(self) -> Self:
        names = [name for column in self.columns for name in column.names()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"columns {twice} are declared twice")
        reserved = sorted(RESERVED_COLUMNS & set(names))
        if reserved:
            raise ValueError(f"column names {reserved} are reserved; rename them in the source")
        if len(self.label_columns()) != 1:
            raise ValueError(f"exactly one column has role 'label'; found {list(self.label_columns())}")
        if math.prod(self.features.shape) != len(self.feature_columns()):
            raise ValueError(
                f"features.shape {list(self.features.shape)} holds {math.prod(self.features.shape)} values but "
                f"{len(self.feature_columns())} columns have role 'feature'"
            )
        return self

    def _by_role(self, role: str) -> tuple[str, ...]:
        return tuple(name for column in self.columns if column.role == role for name in column.names())

    def feature_columns(self) -> tuple[str, ...]:
        """Return the names of the feature columns, in order."""
        return self._by_role("feature")

    def label_columns(self) -> tuple[str, ...]:
        """Return the names of the label columns; a valid specification has one."""
        return self._by_role("label")


class WorkerResources(Record):
    """What each training worker asks Ray for. `gpus: auto` takes one GPU each where the cluster has them.

    `wait_for_nodes_s` asks the autoscaler for what is missing and waits so many seconds for it, instead of
    refusing at once.
    """

    cpus: float = Field(default=1.0, gt=0)
    gpus: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    wait_for_nodes_s: float = Field(default=0.0, ge=0)


class TrainSpec(Spec):
    """`train.yaml`: a dataset, an architecture and how to optimize it.

    `batch_size` counts the rows of one step over all workers. `alias` is moved to the new version.
    """

    model: str
    dataset: str
    architecture: Architecture
    epochs: int = Field(default=10, ge=1, le=100_000)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    seed: int = 0
    workers: int = Field(default=2, ge=1, le=4096)
    resources: WorkerResources = WorkerResources()
    keep_checkpoints: int = Field(default=2, ge=1)
    max_failures: int = Field(default=2, ge=0)
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

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch_size % self.workers:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide by workers {self.workers}; use a multiple of "
                f"{self.workers}"
            )
        return self


class ReplicasSpec(Record):
    """How many replicas: Ray Serve scales between `min` and `max` to hold the target."""

    min: int = Field(default=1, ge=0)
    max: int = Field(default=1, ge=1)
    target_ongoing_requests: float = Field(default=16, gt=0)
    upscale_delay_s: float = Field(default=10, ge=0)
    downscale_delay_s: float = Field(default=300, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class BatchingSpec(Record):
    """Dynamic batching: requests that wait together are computed together.

    A batch closes at `max_rows` rows or after `max_wait_ms` milliseconds; 0 takes only what is there already.
    """

    max_rows: int = Field(default=128, ge=1)
    max_wait_ms: float = Field(default=0.0, ge=0)


class ReplicaResources(Record):
    """What each replica asks Ray for."""

    cpus: float = Field(default=0.25, gt=0)
    gpus: float = Field(default=0, ge=0)
    threads: int = Field(default=1, ge=1)


class EndpointSpec(Spec):
    """`endpoint.yaml`: which model version answers, with how many replicas."""

    name: str
    model: str
    replicas: ReplicasSpec = ReplicasSpec()
    batching: BatchingSpec = BatchingSpec()
    resources: ReplicaResources = ReplicaResources()

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value, "endpoint")

    @field_validator("model")
    @classmethod
    def _model(cls, value: str) -> str:
        return str(parse_reference(value, default="champion"))


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
        raise RequestError(f"{where} is not a valid {kind.__name__}: {_first_problems(exc, kind)}") from exc


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


def _first_problems(exc: ValidationError, kind: type[Spec], most: int = 3) -> str:
    """Describe the first problems: which key, which value, what is expected."""
    lines = []
    for problem in exc.errors()[:most]:
        key = ".".join(str(part) for part in problem["loc"])
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
