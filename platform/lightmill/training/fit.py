"""A run: place the workers, train, register the best checkpoint as a model version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

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
from lightmill.training.feed import CACHE_BYTES
from lightmill.training.following import EpochWriter, OnEpoch
from lightmill.training.lanes import Lanes, lane_count
from lightmill.training.loop import LoopConfig, train_worker
from lightmill.training.objectives import OBJECTIVES, Objective
from lightmill.training.placement import Placement
from lightmill.training.planning.refusing import refuse_too_large
from lightmill.training.planning.subject import Subject
from lightmill.training.register import register_best
from lightmill.training.rows import Rows
from lightmill.training.session import read_pointer
from lightmill.training.strategies import STRATEGIES
from lightmill.training.waiting import describe_cluster, find_place, scaling_of
from lightmill.training.watching.follower import OnSteps, RunFollower

SCORE = "validation_loss"
Report = Callable[[Progress], None]


def _nothing(points: list[StepMetrics], progress: Progress) -> None:
    """Hear of steps, and do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchers:
    """Who is told how a run goes.

    `recorded` returns what of it is sealed with the version; `note` gets what the result should say besides.
    """

    report: Report
    on_epoch: OnEpoch
    on_steps: OnSteps = _nothing
    recorded: Callable[[], RunMetrics] = RunMetrics
    note: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that can begin: what it trains on, with which objective, and how rows are dealt."""

    spec: TrainSpec
    dataset: OpenVersion
    objective: Objective
    rows: Rows
    lanes: int
    streamed: bool
    allow_python: bool

    def subject(self, location: RegistryLocation) -> Subject:
        """Return what a plan of the run looks at."""
        return Subject(
            spec=self.spec, dataset=self.dataset, location=location, objective=self.objective, rows=self.rows
        )


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
    prepared = prepare(spec, registry, location, allow_python=allow_python)
    described = provenance.model_copy(update={"dataset": prepared.dataset.id, "run": run})
    trained = train_prepared(prepared, run, runs_path, location, described, watchers)
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
    )


def prepare(spec: TrainSpec, registry: Registry, location: RegistryLocation, *, allow_python: bool = False) -> Prepared:
    """Look up what a run needs, and refuse what cannot work; nothing is started.

    Raises:
        NotFoundError: There is no such dataset.
        RequestError: The specification does not fit the dataset.
    """
    dataset = registry.open(registry.resolve(AssetKind.DATASET, parse_reference(spec.dataset)))
    card = dataset.manifest.dataset
    if card is None:
        raise RequestError(f"{dataset.id} is no dataset that can be trained on.")
    objective = objective_of(spec, card, dataset)
    check_strategy(spec, objective.architecture)
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
        rows=rows,
        lanes=lanes,
        streamed=streamed,
        allow_python=allow_python,
    )


def loop_config(
    prepared: Prepared,
    placement: Placement,
    run: str,
    runs_path: Path,
    location: RegistryLocation,
    provenance: Provenance,
) -> LoopConfig:
    """Return what the workers of a run need."""
    return LoopConfig(
        spec=prepared.spec,
        architecture=prepared.objective.architecture,
        run=run,
        run_folder=str(runs_path / run),
        location=location,
        dataset=prepared.dataset.id,
        provenance=provenance.listed(),
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
    best = best_checkpoint(_fit(config, placement, runs_path, follower))
    return Trained(checkpoint=best, files=follower.files(watchers.recorded()))


def objective_of(spec: TrainSpec, card: DatasetCard, dataset: OpenVersion) -> Objective:
    """Return what a run minimizes, with the sizes that its dataset decides.

    Raises:
        RequestError: Dataset, objective and architecture do not go together.
    """
    try:
        return OBJECTIVES[spec.objective](card, spec.architecture)
    except RequestError as exc:
        raise RequestError(f"Training on {dataset.id} is refused: {exc.message}") from exc


def check_strategy(spec: TrainSpec, architecture: Architecture) -> None:
    """Refuse a strategy that the model cannot be trained by, for any number of workers that the run may have.

    Raises:
        RequestError: The architecture cannot be built, it has no plan for the strategy, or sizes do not divide.
    """
    with torch.device("meta"):
        module = build_module(architecture)
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


def _fit(config: LoopConfig, placement: Placement, runs_path: Path, follower: RunFollower) -> Result:
    with follower:
        try:
            writer = EpochWriter(config.run, follower.metrics_path)
            return make_trainer(config, placement, runs_path, writer, follower.mailbox).fit()
        except ray.train.TrainingFailedError as exc:
            original = original_error(exc)
            if original is not None:
                raise type(original)(original.message) from exc
            raise JobError(f"Run {config.run} failed: {str(exc).strip().splitlines()[-1]}") from exc


def make_trainer(
    config: LoopConfig, placement: Placement, runs_path: Path, writer: UserCallback, mailbox: Any = None
) -> TorchTrainer:
    """Return Ray Train's trainer of a run; `writer` hears of epochs and the actor `mailbox`, if any, of steps."""
    spec = config.spec
    return TorchTrainer(
        train_worker,
        train_loop_config={"config": config.model_dump_json(), "mailbox": mailbox},
        torch_config=TorchConfig(backend=placement.backend),
        scaling_config=scaling_of(placement),
        run_config=RunConfig(
            name=config.run,
            storage_path=str(runs_path),
            checkpoint_config=CheckpointConfig(
                num_to_keep=spec.checkpoints.keep_best,
                checkpoint_score_attribute=SCORE,
                checkpoint_score_order="min",
            ),
            failure_config=FailureConfig(
                max_failures=spec.failures.worker,
                max_preemption_failures=-1 if spec.failures.preemption is None else spec.failures.preemption,
                controller_failure_limit=spec.failures.controller,
            ),
            callbacks=[writer],
        ),
    )


def best_checkpoint(result: Result) -> VersionId:
    """Return the sealed checkpoint with the lowest validation loss, the earlier one of equals.

    Raises:
        JobError: The run reported none.
    """
    if not result.best_checkpoints:
        raise JobError("The run ended without a checkpoint; see its log.")
    scored = [(metrics[SCORE], metrics["epoch"], checkpoint) for checkpoint, metrics in result.best_checkpoints]
    return read_pointer(min(scored, key=lambda item: item[:2])[2])
