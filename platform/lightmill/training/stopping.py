"""Early stopping: a decision of each epoch from numbers that all workers have alike. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from lightmill.errors import RequestError
from lightmill.records.specs import TrainSpec
from lightmill.records.training import EarlyStoppingSpec
from lightmill.training.objectives import Objective

BEST = "early_stopping_best"
WAITED = "early_stopping_waited"
_FALLING = ("loss", "perplexity", "mae", "rmse", "mape", "calibration_error")


class EarlyStopping:
    """Counts the epochs since a metric was best; what it knows goes with the metrics, and comes back with them."""

    def __init__(self, spec: EarlyStoppingSpec | None, before: Mapping[str, float]) -> None:
        """Begin, or go on from the metrics of an epoch `before`."""
        self._spec = spec
        self._best = before.get(BEST)
        self._waited = int(before.get(WAITED, 0))

    @property
    def stops(self) -> bool:
        """Whether the run is to end."""
        return self._spec is not None and self._waited >= self._spec.patience

    def observe(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Look at an epoch's metrics; return what to report besides."""
        if self._spec is None:
            return {}
        value = metrics[self._spec.metric]
        sign = -1.0 if falls(self._spec.metric) else 1.0
        if self._best is None or sign * (value - self._best) > self._spec.min_delta:
            self._best, self._waited = value, 0
        else:
            self._waited += 1
        return self.known

    @property
    def known(self) -> dict[str, float]:
        """What a checkpoint carries, so that a run that goes on from it counts further."""
        return {} if self._best is None else {BEST: self._best, WAITED: float(self._waited)}


def falls(metric: str) -> bool:
    """Whether less of a metric is better."""
    return metric.removeprefix("validation_").removeprefix("train_") in _FALLING


def check_stopping(spec: TrainSpec, objective: Objective) -> None:
    """Refuse a metric that is not measured, or not alike on all workers.

    Raises:
        RequestError: It is neither of the training split nor of the validation split.
    """
    if spec.early_stopping is None:
        return
    trained = ["loss", *(f"train_{name}" for name in objective.measures if name != "loss")]
    known = [*trained, *(f"validation_{name}" for name in (*objective.measures, *objective.scores))]
    if spec.early_stopping.metric not in known:
        raise RequestError(
            f"early_stopping.metric {spec.early_stopping.metric!r} is not measured; choose one of {', '.join(known)}."
        )
