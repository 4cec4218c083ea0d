"""What a tuning specification may choose, and the table of trials that comes out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, ValidationError, field_validator, model_validator

from lightmill.records.base import Record
from lightmill.records.references import VersionId
from lightmill.records.specs import Spec, TrainSpec, parse_spec

GRID_MAX = 10_000
_FREE = ("architecture.arguments", "objective_arguments", "optimizer.arguments")
_FIXED = ("model", "dataset", "alias", "workers", "resources", "checkpoints", "failures", "watch", "start.model")
_MUTABLE = (
    "learning_rate",
    "weight_decay",
    "l1",
    "clip_norm",
    "schedule",
    "optimizer.arguments",
    "objective_arguments",
)
_FALL, _RISE = ("loss", "perplexity", "error", "mae", "mse"), ("accuracy", "f1", "auroc", "precision", "recall", "r2")
Values = dict[str, JsonValue]


class Dimension(Record):
    """The values that one field may take; exactly one of these is given.

    `uniform` and `loguniform` are drawn between two numbers, `integer` from a first to a last whole number in steps of
    `step`, `choice` from a list. Of `grid` every value is tried, with every value of the other grids.
    """

    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = None
    step: int = Field(default=1, ge=1)
    choice: tuple[JsonValue, ...] | None = None
    grid: tuple[JsonValue, ...] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [
            name for name in ("uniform", "loguniform", "integer", "choice", "grid") if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError(
                f"give one of uniform, loguniform, integer, choice and grid, not {' and '.join(given) or 'none'}"
            )
        bounds = self.bounds
        if bounds and not bounds[0] < bounds[1]:
            raise ValueError(f"{given[0]} {list(bounds)} does not rise; write the smaller number first")
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform {list(self.loguniform)} begins at 0 or below, which has no logarithm")
        if not bounds and not self.listed:
            raise ValueError(f"{given[0]} has no values")
        if self.step > 1 and self.integer is None:
            raise ValueError("step goes with integer only")
        return self

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The two ends of a range, None of a list."""
        return self.uniform or self.loguniform or self.integer

    @property
    def listed(self) -> tuple[JsonValue, ...]:
        """The values of a list, none of a range."""
        return self.grid or self.choice or ()

    @property
    def ends(self) -> tuple[JsonValue, ...]:
        """The values that are checked before anything runs: all of a list, both ends of a range."""
        if self.integer:
            first, last = self.integer
            return first, last - (last - first) % self.step
        return self.bounds or self.listed


# -- algorithms ---------------------------------------------------------------


class RandomSpec(Record):
    """Draw every trial anew (J. Bergstra and Y. Bengio, 2012)."""

    name: Literal["random"] = "random"


class GridSpec(Record):
    """Try every combination of lists."""

    name: Literal["grid"] = "grid"


class AshaSpec(Record):
    """Draw at random; stop what is not among the best.

    After `grace_epochs`, and then after `reduction` times as many epochs again and again, a trial goes on only if it is
    in the best 1 / `reduction` of those that came so far (L. Li et al., "A system for massively parallel
    hyperparameter tuning", 2020).
    """

    name: Literal["asha"] = "asha"
    grace_epochs: int = Field(default=1, ge=1)
    reduction: int = Field(default=3, ge=2)


class PbtSpec(Record):
    """Population based training (M. Jaderberg et al., 2017).

    All trials train. After every `every_epochs` one of the worst `quantile` takes over weights and values of one of the
    best, and goes on with changed values: drawn anew with probability `resample`, else a little larger or smaller.
    """

    name: Literal["pbt"] = "pbt"
    every_epochs: int = Field(default=2, ge=1)
    quantile: float = Field(default=0.25, gt=0, le=0.5)
    resample: float = Field(default=0.25, ge=0, le=1)


class OptunaSpec(Record):
    """Optuna's tree-structured Parzen estimator, after `startup` trials at random (J. Bergstra et al., 2011)."""

    name: Literal["optuna"] = "optuna"
    startup: int = Field(default=10, ge=1)


def _named(value: Any) -> Any:
    """Return a bare name as a record with that name."""
    return {"name": value} if isinstance(value, str) else value


AlgorithmSpec = Annotated[
    Annotated[RandomSpec | GridSpec | AshaSpec | PbtSpec | OptunaSpec, Field(discriminator="name")],
    BeforeValidator(_named),
]


class LimitSpec(Record):
    """What a model may be at most: trainable parameters, and milliseconds for one row on the machine of the job."""

    parameters: int | None = Field(default=None, ge=1)
    latency_ms: float | None = Field(default=None, gt=0)


# -- the specification --------------------------------------------------------


def _one_worker(value: Any) -> Any:
    """Return a training specification whose workers default to one: trials are many already."""
    return {"workers": 1, **value} if isinstance(value, dict) else value


class TuneSpec(Spec):
    """`tune.yaml`: a training specification, and which of its fields are searched.

    `search` names fields of `train` by dotted paths, such as `architecture.arguments.width`. `trials` is how many are
    trained; of a grid that is all combinations, unless it is given. At most `parallel` train at a time; 0 is as many as
    the cluster has room for. The best is the trial with the lowest (`min`) or highest (`max`) `metric` of any epoch.
    Configurations that break `limits` are refused without training, and others are drawn in their place. `seed` decides
    what is drawn; that of `train` is the same for all trials.
    """

    train: Annotated[TrainSpec, BeforeValidator(_one_worker)]
    search: dict[str, Dimension] = Field(min_length=1)
    algorithm: AlgorithmSpec = RandomSpec()
    trials: int | None = Field(default=None, ge=1, le=100_000)
    parallel: int = Field(default=0, ge=0)
    metric: str = "validation_loss"
    mode: Literal["min", "max"] | None = None
    limits: LimitSpec = LimitSpec()
    seed: int = 0

    @field_validator("search")
    @classmethod
    def _searchable(cls, value: dict[str, Dimension]) -> dict[str, Dimension]:
        for path in value:
            if _under(path, _FIXED):
                raise ValueError(f"{path!r} is the same for all trials; take it out of search")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        base = self.train.model_dump(mode="json")
        for path, dimension in self.search.items():
            _check_path(base, path)
            for value in dimension.ends:
                _check_value(base, path, value)
        self._check_algorithm()
        return self

    def _check_algorithm(self) -> None:
        kinds = {path: dimension.listed for path, dimension in self.search.items()}
        name = self.algorithm.name
        if name == "grid" and not all(kinds.values()):
            ranges = ", ".join(path for path, listed in kinds.items() if not listed)
            raise ValueError(f"a grid has lists only; give choice or grid for {ranges}, or another algorithm")
        if name == "grid" and self.trial_count > self.combinations:
            raise ValueError(f"trials {self.trial_count} is more than the {self.combinations} combinations of the grid")
        if name == "grid" and self.combinations > GRID_MAX:
            raise ValueError(f"the grid has {self.combinations} combinations; at most {GRID_MAX} are tried")
        if name in ("asha", "pbt") and "epochs" in self.search:
            raise ValueError(f"{name} compares trials by epochs; take 'epochs' out of search")
        if name in ("pbt", "optuna") and any(dimension.grid for dimension in self.search.values()):
            raise ValueError(f"{name} does not take grids; give choice instead")
        if name == "pbt":
            self._check_population()
        _ = self.direction

    def _check_population(self) -> None:
        fixed = [path for path in self.search if not _under(path, _MUTABLE) and not path.endswith(".dropout")]
        if fixed:
            raise ValueError(
                f"pbt changes values while training, which {', '.join(fixed)} cannot; choose another algorithm"
            )
        if self.train.worker_range.max > 1:
            raise ValueError(f"pbt trains trials of one worker, not of {self.train.workers}; set train.workers to 1")
        if self.trial_count < 2:
            raise ValueError("pbt needs at least 2 trials")

    @property
    def direction(self) -> Literal["min", "max"]:
        """Whether a lower or a higher metric is better.

        Raises:
            ValueError: `mode` is not given, and the metric's name does not tell.
        """
        if self.mode:
            return self.mode
        if self.metric.endswith(_FALL):
            return "min"
        if self.metric.endswith(_RISE):
            return "max"
        raise ValueError(f"whether a low or a high {self.metric} is better is not known; give mode: min or max")

    @property
    def combinations(self) -> int:
        """How many combinations the lists have; those of grids alone, unless the algorithm is a grid."""
        count = 1
        for dimension in self.search.values():
            count *= len(dimension.listed if self.algorithm.name == "grid" else dimension.grid or (None,))
        return count

    @property
    def trial_count(self) -> int:
        """How many trials are to be trained."""
        return self.trials or (self.combinations if self.algorithm.name == "grid" else max(10, self.combinations))

    def with_values(self, values: Values) -> TrainSpec:
        """Return the training specification of a trial.

        Raises:
            RequestError: The values do not go together.
        """
        found = self.train.model_dump(mode="json")
        for path, value in values.items():
            _put(found, path, value)
        said = ", ".join(f"{path} {value}" for path, value in values.items())
        return parse_spec(TrainSpec, found, f"A trial with {said}")


def _under(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix or path.startswith(prefix + ".") for prefix in prefixes)


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
    tree[last] = copy.deepcopy(value)


def _check_path(base: dict[str, Any], path: str) -> None:
    """Raise ValueError unless a specification has this field, or may have it."""
    at: Any = base
    parts = path.split(".")
    for place, part in enumerate(parts):
        done = ".".join(parts[:place])
        if not isinstance(at, dict):
            what = "has no fields" if at is not None else "is not given; write it under train first"
            raise ValueError(f"search.{path}: {done} {what}")
        if part not in at:
            if done and _under(done, _FREE):
                return
            known = ", ".join(sorted(at))
            raise ValueError(f"search.{path}: {done or 'train'} has no field {part!r} (it has {known})")
        at = at[part]


def _check_value(base: dict[str, Any], path: str, value: JsonValue) -> None:
    """Raise ValueError unless a specification with this value is valid."""
    tried = copy.deepcopy(base)
    _put(tried, path, value)
    try:
        TrainSpec.model_validate(tried)
    except ValidationError as exc:
        raise ValueError(f"search.{path}: {value!r}: {exc.errors()[0]['msg']}") from exc


# -- what comes out -----------------------------------------------------------

TrialState = Literal["refused", "waiting", "running", "done", "stopped", "failed"]


class Trial(Record):
    """One configuration and what came of it.

    `refused`: not trained, `reason` says why. `stopped`: the algorithm ended it early. `metric` is the best of any
    epoch, `best_epoch` that epoch, `metrics` and `checkpoint` are of it. `epochs` are those trained, `copied` how often
    population based training gave it the weights of another.
    """

    number: int
    values: Values
    state: TrialState = "waiting"
    reason: str = ""
    run: str = ""
    parameters: int | None = None
    latency_ms: float | None = None
    epochs: int = 0
    metric: float | None = None
    best_epoch: int | None = None
    best_values: Values = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    checkpoint: VersionId | None = None
    last_checkpoint: VersionId | None = None
    copied: int = 0

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state not in ("waiting", "running")


class TrialTable(Record):
    """All trials of a tuning job, and of those that went on from it; `job` is the first.

    `best` is a trial's number, None as long as none has a metric.
    """

    job: str
    metric: str
    mode: Literal["min", "max"]
    wanted: int
    algorithm: str
    trials: tuple[Trial, ...] = ()
    best: int | None = None

    def ranked(self) -> Iterator[Trial]:
        """Yield the trials with a metric from the best on, the earlier one of equals first, then the others."""
        sign = 1 if self.mode == "min" else -1
        measured = [trial for trial in self.trials if trial.metric is not None]
        yield from sorted(measured, key=lambda trial: (sign * (trial.metric or 0.0), trial.number))
        yield from (trial for trial in self.trials if trial.metric is None)
