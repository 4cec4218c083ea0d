"""A tuning job: judge configurations, train them by Ray Tune, register the best with the table of all.

What a killed job goes on from is its table, which the catalog keeps: trials that have ended stay as they are, the
others go on from their last sealed checkpoints. Ray Tune's own files are not read again.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback, PlacementGroupFactory
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import BasicVariantGenerator, Searcher

from lightmill.datasets.translate import original_error
from lightmill.errors import JobError, UnavailableError
from lightmill.records.assets import Provenance, VersionSummary
from lightmill.records.base import now_iso
from lightmill.records.jobs import EpochMetrics, Progress
from lightmill.records.references import AssetKind, VersionId, parse_reference
from lightmill.records.tuning import PbtSpec, Trial, TrialTable, TuneSpec
from lightmill.registry import Registry, RegistryLocation
from lightmill.training.fit import Watchers, prepare
from lightmill.training.forgetting import forget, forget_run
from lightmill.training.keeping import checkpoints_of
from lightmill.training.placement import Placement
from lightmill.training.register import register_best
from lightmill.training.tuning.algorithms import EPOCH, remember, scheduler_of
from lightmill.training.tuning.limits import Judge
from lightmill.training.tuning.proposing import OptunaProposer, check_some, point_of, propose_all
from lightmill.training.tuning.space import configurations
from lightmill.training.tuning.table import Keep, Table, end_state
from lightmill.training.tuning.trial import FAILED, POINTER, TrialContext, TrialPlacement, train_trial, trial_name
from lightmill.training.waiting import describe_cluster, find_place

PROBES = 50
TRIALS_FILE = "trials.json"
KEEP_EVERY_S = 1.0
QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1", "TUNE_WARN_THRESHOLD_S": "10"}
EpochsOf = Callable[[str], list[EpochMetrics]]
logger = logging.getLogger("lightmill.training")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tuning job keeps things: its name, Ray's bookkeeping, the registry."""

    job: str
    runs_path: Path
    registry: Registry
    location: RegistryLocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What an earlier attempt of the job left: its table, if there was one, and the epochs of any run."""

    table: TrialTable | None
    epochs_of: EpochsOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What came out: the best trial's model version, and all trials."""

    version: VersionSummary
    table: TrialTable


def search(
    spec: TuneSpec,
    place: Place,
    provenance: Provenance,
    watchers: Watchers,
    keep: Keep,
    memory: Memory,
    *,
    allow_python: bool = False,
) -> Tuned:
    """Try configurations and register the best; `keep` is told the table whenever it changes.

    Raises:
        NotFoundError: There is no such dataset.
        RequestError: No configuration can be trained, the cluster cannot hold a trial, or an extra is missing.
        UnavailableError: The cluster is busy and stayed so.
        JobError: All trials failed.
    """
    spec = _pinned(spec, place.registry)
    table = Table(spec, place.job, _seldom(keep), memory.table)
    judge = Judge(spec, place.registry, place.location, allow_python=allow_python)
    proposer = OptunaProposer(spec, judge, table) if spec.algorithm.name == "optuna" else None
    if proposer is None:
        watchers.report(Progress(phase="judge configurations", total=spec.trial_count, unit="trials"))
        propose_all(spec, judge, table)
    if table.waiting() or proposer:
        placement = find_place(spec.train, watchers.report, streamed=_streamed(spec, judge, table))
        context = TrialContext(
            spec=spec,
            job=table.job,
            runs_path=str(place.runs_path),
            location=place.location,
            provenance=provenance.listed(),
            placement=TrialPlacement.of(placement),
            allow_python=allow_python,
        )
        _train_all(context, table, proposer, Follower(spec, table, place.registry, watchers), memory)
    check_some(table)
    keep(table.record)
    best = table.best
    if best is None or best.checkpoint is None:
        raise JobError(f"No trial of {place.job} trained a single epoch: {_reason(table)}")
    watchers.report(Progress(phase="register", done=table.ended, total=spec.trial_count, unit="trials"))
    version = _register(spec, best, table, place, provenance, allow_python=allow_python)
    for trial in table.record.trials:
        if trial.run:
            forget_run(place.registry, trial.run, but=best.checkpoint if trial.number == best.number else None)
    return Tuned(version=version, table=table.record)


def _pinned(spec: TuneSpec, registry: Registry) -> TuneSpec:
    """Return the specification on the dataset version that its name stands for now: all trials train on that."""
    id = registry.resolve(AssetKind.DATASET, parse_reference(spec.train.dataset))
    return spec.model_copy(update={"train": spec.train.model_copy(update={"dataset": f"{id.name}@{id.seq}"})})


def _streamed(spec: TuneSpec, judge: Judge, table: Table) -> bool:
    """Return whether rows are streamed, as the first configuration has it that can be prepared."""
    waiting = [trial.values for trial in table.waiting()]
    for values in waiting or itertools.islice(configurations(spec), PROBES):
        judged = judge.judge(values)
        if judged.prepared is not None:
            return judged.prepared.streamed
    return False


def _train_all(
    context: TrialContext, table: Table, proposer: OptunaProposer | None, follower: Follower, memory: Memory
) -> None:
    """Run Ray Tune until no trial is left."""
    spec, placement = context.spec, context.placement.placement
    os.environ.update(QUIET)
    scheduler = scheduler_of(spec)
    ended = [trial for trial in table.record.trials if trial.ended and trial.epochs]
    remember(scheduler, spec, [(trial, memory.epochs_of(trial.run)) for trial in ended])
    parallel = spec.parallel or _room(placement)
    points = [point_of(trial) for trial in table.waiting()]
    searcher: Searcher | BasicVariantGenerator = proposer or BasicVariantGenerator(max_concurrent=parallel)
    config: dict[str, Any] = {"context": context.model_dump_json()}
    tune.run(
        tune.with_resources(train_trial, _resources(placement)),
        name=f"{context.job}-{secrets.token_hex(3)}",
        storage_path=context.runs_path,
        config=config if proposer else config | {"point": tune.grid_search(points)},
        num_samples=spec.trial_count + len(table) if proposer else 1,
        search_alg=searcher,
        scheduler=scheduler,
        max_concurrent_trials=parallel if proposer else None,
        callbacks=[follower],
        max_failures=spec.train.failures.worker,
        reuse_actors=placement.most == 1,
        raise_on_failed_trial=False,
        trial_name_creator=_name_of,
        trial_dirname_creator=_name_of,
        verbose=0,
    )


def _name_of(trial: TuneTrial) -> str:
    return trial_name(trial.config["point"]["number"])


def _number_of(trial: TuneTrial) -> int:
    return int(str(trial)[1:])


def _resources(placement: Placement) -> PlacementGroupFactory:
    """Return what a trial holds: its one worker, or next to nothing beside a Ray Train that places its workers."""
    if placement.most > 1:
        return PlacementGroupFactory([{"CPU": 0.01}])
    more: dict[str, Any] = {"bundle_label_selector": [dict(placement.labels)]} if placement.labels else {}
    return PlacementGroupFactory([placement.resources], **more)


def _room(placement: Placement) -> int:
    """Return how many trials the cluster holds at a time."""
    cluster = describe_cluster()
    workers = cluster.room(placement.cpus, placement.gpus, placement.labels)
    by_cpu = int(cluster.cpus / (placement.workers * placement.cpus + placement.data_cpus) + 1e-9)
    return max(1, min(workers // placement.workers, by_cpu))


class Follower(Callback):
    """Writes what Ray Tune reports into the table; runs in the job's own process."""

    def __init__(self, spec: TuneSpec, table: Table, registry: Registry, watchers: Watchers) -> None:
        self._spec = spec
        self._table = table
        self._registry = registry
        self._watchers = watchers

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial begins, or goes on."""
        self._table.began(_number_of(trial))
        self._progress()

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch ended, or the trial says why it gave up."""
        number = _number_of(trial)
        if FAILED in result:
            self._table.finished(number, "failed", result[FAILED])
        elif POINTER in result:
            self._reported(number, trial.config["point"]["values"], result)

    def _reported(self, number: int, values: dict[str, Any], result: dict[str, Any]) -> None:
        checkpoint = VersionId.model_validate_json(result[POINTER]) if result[POINTER] else None
        metrics = {name: float(result[name]) for name in _metrics(result)}
        before = self._table[number]
        after = self._table.reported(number, int(result[EPOCH]), metrics, checkpoint, values)
        if not isinstance(self._spec.algorithm, PbtSpec):  # there a trial may be about to go on from another's
            needed = (after.checkpoint, after.last_checkpoint)
            forget(self._registry, [id for id in _checkpoints(before) if id not in needed])
        try:
            epoch = EpochMetrics(run=after.run, epoch=after.epochs, metrics=metrics, created=now_iso())
            self._watchers.on_epoch(epoch)
        except UnavailableError as exc:
            logger.warning("an epoch of %s is not recorded: %s", after.run, exc)
        self._progress()

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial ended, of itself or stopped by the algorithm."""
        found = self._table[_number_of(trial)]
        self._find_checkpoint(found)
        if found.state != "failed":
            spec = self._spec.with_values(found.values)
            self._table.finished(found.number, end_state(found, spec))
        self._progress()

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial failed more often than it may."""
        self._table.finished(_number_of(trial), "failed", _why(trial))
        self._progress()

    def _find_checkpoint(self, trial: Trial) -> None:
        """Look up the best checkpoint of a trial of several workers, which seal it after they have reported."""
        if trial.metric is None or trial.checkpoint is not None:
            return
        for one in checkpoints_of(self._registry, trial.run):
            if one.step == 0 and one.epoch == trial.best_epoch:
                self._table.sealed(trial.number, one.id)

    def _progress(self) -> None:
        best = self._table.best
        said = f"best {self._spec.metric} {best.metric:.4g}" if best and best.metric is not None else "train"
        try:
            self._watchers.report(
                Progress(phase=said, done=self._table.ended, total=self._spec.trial_count, unit="trials")
            )
        except UnavailableError as exc:
            logger.warning("progress is not recorded: %s", exc)


def _checkpoints(trial: Trial) -> list[VersionId]:
    """Return the checkpoints that a trial has, each once."""
    best, last = trial.checkpoint, trial.last_checkpoint
    return [id for id in (best, None if last == best else last) if id is not None]


def _metrics(result: dict[str, Any]) -> list[str]:
    """Return the names of what the trial measured, without what Ray Tune adds."""
    return [name for name, value in result.items() if name not in _TUNES and isinstance(value, int | float)]


_TUNES = frozenset({
    "epoch", "done", "timestamp", "training_iteration", "time_this_iter_s", "time_total_s", "time_since_restore",
    "iterations_since_restore", "pid", "timesteps_total", "episodes_total", "should_checkpoint",
})  # fmt: skip


def _why(trial: TuneTrial) -> str:
    """Return why a trial failed, in a line."""
    error = trial.get_error()
    if error is None:
        return "its process ended without a word"
    original = original_error(error)
    return original.message if original else str(error).strip().splitlines()[-1]


def _reason(table: Table) -> str:
    reasons = [trial.reason for trial in table.record.trials if trial.state == "failed" and trial.reason]
    return reasons[-1] if reasons else "see its log"


def _register(
    spec: TuneSpec, best: Trial, table: Table, place: Place, provenance: Provenance, *, allow_python: bool
) -> VersionSummary:
    """Register the best trial's best checkpoint, with the table as a sealed file."""
    chosen = spec.with_values(best.best_values)
    prepared = prepare(chosen, place.registry, place.location, allow_python=allow_python)
    described = prepared.described(provenance, best.run).model_copy(update={"spec": chosen.model_dump(mode="json")})
    if best.checkpoint is None:
        raise JobError(f"Trial {best.number} has no checkpoint.")
    return register_best(
        chosen,
        prepared.objective,
        prepared.rows,
        prepared.dataset,
        place.registry,
        place.location,
        best.checkpoint,
        described,
        {TRIALS_FILE: table.record.model_dump_json(indent=1).encode()},
        allow_python=allow_python,
    )


def _seldom(keep: Keep) -> Keep:
    """Return what keeps a table at most once a second, and whenever a trial has ended."""
    last, ended = -KEEP_EVERY_S, -1

    def kept(table: TrialTable) -> None:
        nonlocal last, ended
        done = sum(trial.ended and trial.state != "refused" for trial in table.trials)
        if done == ended and time.monotonic() - last < KEEP_EVERY_S:
            return
        last, ended = time.monotonic(), done
        try:
            keep(table)
        except UnavailableError as exc:
            logger.warning("the table of trials is not recorded: %s", exc)

    return kept
