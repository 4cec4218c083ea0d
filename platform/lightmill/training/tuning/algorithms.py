"""From an algorithm's record to what Ray Tune runs it with."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from lightmill.records.jobs import EpochMetrics
from lightmill.records.tuning import AshaSpec, PbtSpec, Trial, TuneSpec
from lightmill.training.tuning.space import draw, nearest

EPOCH = "epoch"


def scheduler_of(spec: TuneSpec) -> TrialScheduler:
    """Return what decides which trials go on."""
    match spec.algorithm:
        case AshaSpec(grace_epochs=grace, reduction=reduction):
            return AsyncHyperBandScheduler(
                time_attr=EPOCH,
                metric=spec.metric,
                mode=spec.direction,
                max_t=max(spec.train.epochs, grace),
                grace_period=grace,
                reduction_factor=reduction,
            )
        case PbtSpec() as algorithm:
            return _population(spec, algorithm)
        case _:
            return FIFOScheduler()


def remember(scheduler: TrialScheduler, spec: TuneSpec, trials: Iterable[tuple[Trial, list[EpochMetrics]]]) -> None:
    """Tell successive halving what trials of an earlier attempt came to, so that new ones are compared with them."""
    if not isinstance(spec.algorithm, AshaSpec):
        return
    for trial, epochs in trials:
        stand_in: Any = _Named(trial_id=f"earlier-{trial.number}")
        scheduler.on_trial_add(None, stand_in)  # pyright: ignore[reportArgumentType] - it looks at the id alone
        for epoch in epochs:
            if spec.metric in epoch.metrics:
                result = {EPOCH: epoch.epoch, spec.metric: epoch.metrics[spec.metric]}
                scheduler.on_trial_result(None, stand_in, result)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    trial_id: str


def _population(spec: TuneSpec, algorithm: PbtSpec) -> PopulationBasedTraining:
    """Return population based training over `point.values` of Ray Tune's configuration."""
    generator = random.Random(spec.seed)  # noqa: S311 - which trial copies which is up to their speed anyway
    mutations: dict[str, list[JsonValue] | Callable[[], JsonValue]] = {}
    for path, dimension in spec.search.items():
        drawn = functools.partial(draw, dimension, generator)
        mutations[path] = list(dimension.listed) if dimension.listed else drawn

    def kept_inside(config: dict[str, Any]) -> dict[str, Any]:
        """Put values back between their bounds."""
        values = config["point"]["values"]
        config["point"]["values"] = {path: nearest(spec.search[path], value) for path, value in values.items()}
        return config

    return PopulationBasedTraining(
        time_attr=EPOCH,
        metric=spec.metric,
        mode=spec.direction,
        perturbation_interval=algorithm.every_epochs,
        hyperparam_mutations={"point": {"values": mutations}},
        quantile_fraction=algorithm.quantile,
        resample_probability=algorithm.resample,
        custom_explore_fn=kept_inside,
        log_config=False,
        require_attrs=False,
    )
