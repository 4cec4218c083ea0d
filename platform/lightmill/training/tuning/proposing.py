"""Configurations one after another, each judged before it is tried: all at once, or as Optuna learns."""

from __future__ import annotations

import importlib
import json
from typing import Any

from pydantic import JsonValue
from ray.tune.search import Searcher

from lightmill.errors import RequestError
from lightmill.records.tuning import Dimension, OptunaSpec, Trial, TuneSpec
from lightmill.training.tuning.limits import Judge
from lightmill.training.tuning.space import configurations
from lightmill.training.tuning.table import Table

REFUSALS_FOR_EACH = 50


def point_of(trial: Trial) -> dict[str, Any]:
    """Return a trial as Ray Tune's configuration has it."""
    start = trial.last_checkpoint.model_dump(mode="json") if trial.last_checkpoint else None
    return {"number": trial.number, "values": trial.values, "start": start}


def propose_all(spec: TuneSpec, judge: Judge, table: Table) -> None:
    """Fill the table with as many configurations as are wanted, and those refused on the way.

    Raises:
        RequestError: All were refused; the message has the last reason.
    """
    most = _most(spec)
    for number, values in enumerate(configurations(spec)):
        if table.taken >= spec.trial_count or number >= most:
            break
        if number >= len(table):
            table.add(values, judge.judge(values))
    check_some(table)


def check_some(table: Table) -> None:
    """Raise RequestError if every configuration was refused."""
    if not table.taken:
        refused = table.record.trials
        last = refused[-1].reason if refused else "there is none"
        raise RequestError(f"All {len(refused)} configurations were refused, the last because: {last}")


def _most(spec: TuneSpec) -> int:
    """Return how many configurations are looked at for the trials that are wanted."""
    return spec.combinations if spec.algorithm.name == "grid" else spec.trial_count * REFUSALS_FOR_EACH


class OptunaProposer(Searcher):
    """Asks Optuna for the next configuration when a trial may begin, and tells it what came of each."""

    def __init__(self, spec: TuneSpec, judge: Judge, table: Table) -> None:
        """Begin, or go on: trials of the table that have ended are what Optuna knows already.

        Raises:
            RequestError: Optuna is not installed.
        """
        super().__init__(metric=spec.metric, mode=spec.direction)
        self._optuna = optuna = load_optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        startup = spec.algorithm.startup if isinstance(spec.algorithm, OptunaSpec) else 0
        sampler = optuna.samplers.TPESampler(seed=spec.seed + len(table), n_startup_trials=startup)
        direction = "minimize" if spec.direction == "min" else "maximize"
        self._study = optuna.create_study(sampler=sampler, direction=direction)
        self._spec, self._judge, self._table = spec, judge, table
        self._asked: dict[str, tuple[int, Any]] = {}
        self._waiting = table.waiting()
        for trial in table.record.trials:
            if trial.ended and trial.metric is not None:
                self._study.add_trial(self._known(trial))

    def suggest(self, trial_id: str) -> Any:
        """Return the next configuration that may train, FINISHED after the last."""
        if self._waiting:
            trial = self._waiting.pop(0)
            self._asked[trial_id] = trial.number, None
            return {"point": point_of(trial)}
        while self._table.taken < self._spec.trial_count and len(self._table) < _most(self._spec):
            asked = self._study.ask()
            values = {path: _suggested(asked, path, dimension) for path, dimension in self._spec.search.items()}
            trial = self._table.add(values, self._judge.judge(values))
            if trial.state == "refused":
                self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
                continue
            self._asked[trial_id] = trial.number, asked
            return {"point": point_of(trial)}
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna the best that a trial came to."""
        number, asked = self._asked.pop(trial_id)
        trial = self._table[number]
        if asked is None:
            if trial.metric is not None:
                self._study.add_trial(self._known(trial))
        elif trial.metric is None:
            self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(asked, trial.metric)

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the table is what a job goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def _known(self, trial: Trial) -> Any:
        """Return a trial of the table as Optuna has it."""
        search = self._spec.search
        return self._optuna.trial.create_trial(
            params={path: _told(search[path], value) for path, value in trial.values.items()},
            distributions={path: self._distribution(search[path]) for path in trial.values},
            value=trial.metric,
        )

    def _distribution(self, dimension: Dimension) -> Any:
        kinds = self._optuna.distributions
        if dimension.integer:
            first, last = dimension.ends
            return kinds.IntDistribution(first, last, step=dimension.step)
        if dimension.bounds:
            return kinds.FloatDistribution(*dimension.bounds, log=dimension.loguniform is not None)
        return kinds.CategoricalDistribution([json.dumps(value) for value in dimension.listed])


def _suggested(asked: Any, path: str, dimension: Dimension) -> JsonValue:
    if dimension.integer:
        first, last = dimension.ends
        return asked.suggest_int(path, first, last, step=dimension.step)
    if dimension.bounds:
        return asked.suggest_float(path, *dimension.bounds, log=dimension.loguniform is not None)
    return json.loads(asked.suggest_categorical(path, [json.dumps(value) for value in dimension.listed]))


def _told(dimension: Dimension, value: JsonValue) -> JsonValue:
    return json.dumps(value) if dimension.listed else value


def load_optuna() -> Any:
    """Return Optuna.

    Raises:
        RequestError: It is not installed.
    """
    try:
        return importlib.import_module("optuna")
    except ImportError as exc:
        raise RequestError(
            f"The algorithm optuna needs the package optuna ({exc}); install lightmill[tuning], or choose another."
        ) from exc
