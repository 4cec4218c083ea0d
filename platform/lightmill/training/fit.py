"""A run: place the workers, train, register the best checkpoint as a model version."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayActorError, RayError
from ray.train import RunConfig, UserCallback
from ray.train.torch import TorchConfig

from lightmill.datasets.dealing import deal_split
from lightmill.datasets.translate import original_error
from lightmill.errors import JobError, RequestError
from lightmill.models.architectures import build_module
from lightmill.records.assets import DatasetCard, Provenance, VersionSummary
from lightmill.records.jobs import Progress, RunMetrics, StepMetrics
from lightmill.records.references import AssetKind, VersionId, parse_reference
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.registry import OpenVersion, Registry, RegistryLocation
from lightmill.training.checks import check_data
from lightmill.training.failing import EndsOnOwnErrors, failure_config
from lightmill.training.feed import CACHE_BYTES
from lightmill.training.following import EpochWriter, OnEpoch
from lightmill.training.keeping import checkpoints_of, newest_checkpoint, ranked
from lightmill.training.lanes import Lanes, lane_count
from lightmill.training.loop import LoopConfig, train_worker
from lightmill.training.objectives import Objective, build_objective
from lightmill.training.placement import Placement
from lightmill.training.planning.refusing import refuse_too_large
from lightmill.training.planning.subject import Subject
from lightmill.training.register import register_best
from lightmill.training.rows import Rows
from lightmill.training.starting import check_start, start_version
from lightmill.training.strategies import STRATEGIES
from lightmill.training.trainer import Trainer
from lightmill.training.waiting import describe_cluster, find_place, scaling_of
from lightmill.training.watching.follower import OnSteps, RunFollower

logger = logging.getLogger("lightmill.training")
Report = Callable[[Progress], None]
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
ELASTIC_START_S = 60
"""How long an elastic run waits for workers before it tries fewer: for a while Ray counts a node that is gone."""


def _nothing(points: list[StepMetrics], progress: Progress) -> None:
    """Hear of steps, and do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchers:
    """Who is told how a run goes.

    `recorded` returns what of it is sealed with the version; `note` gets what the job's result should say besides.
    """

    report: Report
    on_epoch: OnEpoch
    on_steps: OnSteps = _nothing
    recorded: Callable[[], RunMetrics] = RunMetrics
    note: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that can begin: what it trains on and begins with, for which objective, and how rows are dealt."""

    spec: TrainSpec
    dataset: OpenVersion
    objective: Objective
    base: OpenVersion | None
    rows: Rows
    lanes: int
    streamed: bool
    allow_python: bool

    def subject(self, location: RegistryLocation) -> Subject:
        """Return what a plan of the run looks at."""
        return Subject(
            spec=self.spec,
            dataset=self.dataset,
            location=location,
            objective=self.objective,
            rows=self.rows,
            allow_python=self.allow_python,
        )

    def described(self, provenance: Provenance, run: str) -> Provenance:
        """Return where what the run makes comes from."""
        base = self.base.id if self.base else None
        return provenance.model_copy(update={"dataset": self.dataset.id, "run": run, "base": base})


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A run that has ended: its best checkpoint, and files that are sealed with a version made of it."""

    checkpoint: VersionId
    files: dict[str, bytes]


def train(
    spec: TrainSpec,
    run: str,
    runs_path: Path,
    registry: Registry,
    location: RegistryLocation,
    provenance: Provenance,
    watchers: Watchers,
    *,
    allow_python: bool = False,
) -> VersionSummary:
    """Train a model and return its new version.

    A run is resumed, not repeated, when its name is used again: it goes on from its last sealed checkpoint.
    `allow_python` lets steps of the dataset's preparation that are left for training call functions.

    Raises:
        NotFoundError: There is no such dataset.
        RequestError: The specification fits neither the dataset nor the cluster.
        UnavailableError: The cluster is busy and stayed so.
        JobError: Training failed more often than `failures` allow.
    """
    prepared = prepare(spec, registry, location, run, allow_python=allow_python)
    described = prepared.described(provenance, run)
    trained = train_prepared(prepared, run, runs_path, registry, location, described, watchers)
    watchers.report(Progress(phase="register", done=spec.epochs, total=spec.epochs, unit="epochs"))
    return register_best(
        spec,
        prepared.objective,
        prepared.rows,
        prepared.dataset,
        registry,
        location,
        trained.checkpoint,
        described,
        trained.files,
        allow_python=allow_python,
    )


def prepare(
    spec: TrainSpec, registry: Registry, location: RegistryLocation, run: str = "", *, allow_python: bool = False
) -> Prepared:
    """Look up what a run needs, and refuse what cannot work; nothing is started. `run` names one that may go on.

    Raises:
        NotFoundError: There is no such dataset, or no such model to begin with.
        RequestError: The specification does not fit the dataset.
    """
    dataset = registry.open(_dataset_of(spec, run, registry))
    card = dataset.manifest.dataset
    if card is None:
        raise RequestError(f"{dataset.id} is no dataset that can be trained on.")
    objective = objective_of(spec, card, dataset, allow_python=allow_python)
    base = start_version(spec, registry)
    check_data(spec, objective, card, dataset, location)
    check_strategy(spec, objective.architecture, base, allow_python=allow_python)
    rows = Rows(objective, card, allow_python=allow_python)
    count = card.profile.splits["train"]
    streamed = rows.row_bytes * count // spec.worker_range.min > CACHE_BYTES
    most = spec.worker_range.max
    lanes = most if streamed or spec.distribution else lane_count(spec.batch_size, most)
    check_lanes(spec, dataset, location, lanes)
    return Prepared(
        spec=spec,
        dataset=dataset,
        objective=objective,
        base=base,
        rows=rows,
        lanes=lanes,
        streamed=streamed,
        allow_python=allow_python,
    )


def loop_config(
    prepared: Prepared, placement: Placement, run: str, runs_path: Path, location: RegistryLocation, origin: Provenance
) -> LoopConfig:
    """Return what the workers of a run need."""
    return LoopConfig(
        spec=prepared.spec,
        architecture=prepared.objective.architecture,
        run=run,
        run_folder=str(runs_path / run),
        location=location,
        dataset=prepared.dataset.id,
        base=prepared.base.id if prepared.base else None,
        provenance=origin.listed(),
        device=placement.device,
        threads=max(1, int(placement.cpus)),
        lanes=prepared.lanes,
        streamed=prepared.streamed,
        allow_python=prepared.allow_python,
    )


def train_prepared(
    prepared: Prepared,
    run: str,
    runs_path: Path,
    registry: Registry,
    location: RegistryLocation,
    provenance: Provenance,
    watchers: Watchers,
) -> Trained:
    """Train, and return the best checkpoint; see `train` for the errors."""
    spec = prepared.spec
    placement = find_place(spec, watchers.report, streamed=prepared.streamed)
    refuse_too_large(prepared.subject(location), placement, describe_cluster())
    for said in placement.notes:
        watchers.note(said)
    watchers.report(Progress(phase=f"start {placement}", done=0, total=spec.epochs, unit="epochs"))
    config = loop_config(prepared, placement, run, runs_path, location, provenance)
    follower = RunFollower(run, runs_path / run, spec, watchers.on_epoch, watchers.on_steps, watchers.report)
    _fit(config, placement, runs_path, follower)
    return Trained(checkpoint=best_checkpoint(registry, run), files=follower.files(watchers.recorded()))


def _dataset_of(spec: TrainSpec, run: str, registry: Registry) -> VersionId:
    """Return the dataset that the run began with, whose rows keep their order, or else the one that is named."""
    newest = newest_checkpoint(registry, run) if run else None
    began = registry.open(newest).manifest.provenance.dataset if newest else None
    return began or registry.resolve(AssetKind.DATASET, parse_reference(spec.dataset))


def objective_of(spec: TrainSpec, card: DatasetCard, dataset: OpenVersion, *, allow_python: bool = False) -> Objective:
    """Return what a run minimizes, with the sizes that its dataset decides.

    Raises:
        RequestError: Dataset, objective and architecture do not go together.
    """
    try:
        return build_objective(spec, card, allow_python=allow_python)
    except RequestError as exc:
        raise RequestError(f"Training on {dataset.id} is refused: {exc.message}") from exc


def check_strategy(
    spec: TrainSpec, architecture: Architecture, base: OpenVersion | None = None, *, allow_python: bool = False
) -> None:
    """Refuse a strategy that the model cannot be trained by, for any number of workers that the run may have.

    Raises:
        RequestError: The architecture cannot be built, the weights of `base` do not fit it, it has no plan for the
            strategy, or sizes do not divide.
    """
    with torch.device("meta"):
        module = build_module(architecture, allow_python=allow_python)
    check_start(spec, module, base)
    for workers in {spec.worker_range.min, spec.worker_range.max}:
        STRATEGIES[spec.strategy.name].check(spec, module, workers)


def check_lanes(spec: TrainSpec, dataset: OpenVersion, location: RegistryLocation, lanes: int) -> None:
    """Refuse a distribution that leaves a worker without rows.

    Raises:
        RequestError: It does, or there is no such column.
    """
    if spec.distribution is None:
        return
    dealt = Lanes([len(places) for places in deal_split(dataset, location, spec.distribution, lanes)], spec.batch_size)
    workers = spec.worker_range.max
    idle = [rank for rank in range(workers) if not dealt.sizes[dealt.share(rank, workers)].sum()]
    if idle:
        raise RequestError(
            f"Distribution by {spec.distribution.by!r} leaves worker {idle[0]} of {workers} without rows; lower "
            "`workers`, or choose another distribution."
        )


def _fit(config: LoopConfig, placement: Placement, runs_path: Path, follower: RunFollower) -> None:
    """Train to the end.

    A controller that dies is begun anew as often as `failures.controller` allows, and so is one whose workers died
    before they trained: Ray Train retries only what happens after that.
    """
    with follower:
        for left in range(config.spec.failures.controller, -1, -1):
            try:
                writer = EpochWriter(config.run, follower.metrics_path)
                make_trainer(config, placement, runs_path, writer, follower.mailbox).fit()
            except ray.train.TrainingFailedError as exc:
                original = original_error(exc)
                if original is not None:
                    raise type(original)(original.message) from exc
                if not left or not isinstance(getattr(exc, "controller_failure", None), RayError):
                    raise JobError(f"Run {config.run} failed: {str(exc).strip().splitlines()[-1]}") from exc
                logger.warning("a worker of run %s died while all were started; the run goes on", config.run)
            except RayActorError as exc:
                if not left:
                    raise JobError(f"Run {config.run} failed: the process that leads its workers died.") from exc
                logger.warning("the process that leads the workers of run %s died; the run goes on", config.run)
            else:
                return


def make_trainer(
    config: LoopConfig, placement: Placement, runs_path: Path, writer: UserCallback, mailbox: Any = None
) -> Trainer:
    """Return Ray Train's trainer of a run; `writer` hears of epochs and the actor `mailbox`, if any, of steps."""
    spec = config.spec
    if placement.elastic:
        os.environ[START_TIMEOUT] = str(ELASTIC_START_S)  # Ray Train hands it to the run's controller
    callbacks: list[Any] = [writer, EndsOnOwnErrors()]
    return Trainer(
        train_worker,
        train_loop_config={"config": config.model_dump_json(), "mailbox": mailbox},
        torch_config=TorchConfig(backend=placement.backend),
        scaling_config=scaling_of(placement),
        run_config=RunConfig(
            name=config.run,
            storage_path=str(runs_path),
            failure_config=failure_config(spec.failures),
            callbacks=callbacks,
        ),
    )


def best_checkpoint(registry: Registry, run: str) -> VersionId:
    """Return the sealed checkpoint with the lowest validation loss, the earlier one of equals.

    Raises:
        JobError: The run has none.
    """
    found = ranked(checkpoints_of(registry, run))
    if not found:
        raise JobError(f"Run {run} ended without a checkpoint; see its log.")
    return found[0].id
