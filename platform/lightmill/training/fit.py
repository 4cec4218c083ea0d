"""A run: place the workers, train, register the best checkpoint as a model version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray
import ray.train
import torch
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig
from ray.train.torch import TorchConfig, TorchTrainer

from lightmill.datasets.dealing import deal_split
from lightmill.datasets.translate import original_error
from lightmill.errors import JobError, RequestError
from lightmill.models.architectures import build_module
from lightmill.records.assets import DatasetCard, Provenance, VersionSummary
from lightmill.records.jobs import EpochMetrics, Progress
from lightmill.records.references import AssetKind, VersionId, parse_reference
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.registry import OpenVersion, Registry, RegistryLocation
from lightmill.training.feed import CACHE_BYTES
from lightmill.training.following import EpochFollower, EpochWriter, OnEpoch
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

SCORE = "validation_loss"
Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchers:
    """Who is told how a run goes; `note` gets what its result should say besides."""

    report: Report
    on_epoch: OnEpoch
    note: Callable[[str], None] = lambda _: None


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
    placement = find_place(spec, watchers.report, streamed=streamed)
    subject = Subject(spec=spec, dataset=dataset, location=location, objective=objective, rows=rows)
    refuse_too_large(subject, placement, describe_cluster())
    for said in placement.notes:
        watchers.note(said)
    watchers.report(Progress(phase=f"start {placement}", done=0, total=spec.epochs, unit="epochs"))
    described = provenance.model_copy(update={"dataset": dataset.id, "run": run})
    config = LoopConfig(
        spec=spec,
        architecture=objective.architecture,
        run=run,
        run_folder=str(runs_path / run),
        location=location,
        dataset=dataset.id,
        provenance=described,
        device=placement.device,
        threads=max(1, int(placement.cpus)),
        lanes=lanes,
        streamed=streamed,
        allow_python=allow_python,
    )
    result = _fit(config, placement, runs_path, watchers)
    best = best_checkpoint(result)
    watchers.report(Progress(phase="register", done=spec.epochs, total=spec.epochs, unit="epochs"))
    return register_best(spec, objective, rows, dataset, registry, location, best, described)


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


def _fit(config: LoopConfig, placement: Placement, runs_path: Path, watchers: Watchers) -> Result:
    metrics_path = runs_path / config.run / "metrics.jsonl"

    def on_epoch(metrics: EpochMetrics) -> None:
        watchers.on_epoch(metrics)
        watchers.report(Progress(phase="train", done=metrics.epoch, total=config.spec.epochs, unit="epochs"))

    trainer = _trainer(config, placement, runs_path, EpochWriter(config.run, metrics_path))
    with EpochFollower(metrics_path, on_epoch):
        try:
            return trainer.fit()
        except ray.train.TrainingFailedError as exc:
            original = original_error(exc)
            if original is not None:
                raise type(original)(original.message) from exc
            raise JobError(f"Run {config.run} failed: {str(exc).strip().splitlines()[-1]}") from exc


def _trainer(config: LoopConfig, placement: Placement, runs_path: Path, writer: EpochWriter) -> TorchTrainer:
    spec = config.spec
    return TorchTrainer(
        train_worker,
        train_loop_config={"config": config.model_dump_json()},
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
