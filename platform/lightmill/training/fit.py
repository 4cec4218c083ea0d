"""A run: place the workers, train, register the best checkpoint as a model version."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.autoscaler.sdk import request_resources
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from lightmill.datasets.dealing import deal_split
from lightmill.datasets.translate import original_error
from lightmill.errors import JobError, RequestError, UnavailableError
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
from lightmill.training.placement import DATA_CPUS, Cluster, Placement, place
from lightmill.training.register import register_best
from lightmill.training.rows import Rows
from lightmill.training.session import read_pointer
from lightmill.training.strategies import STRATEGIES
from lightmill.training.watching.follower import OnSteps, RunFollower

SCORE = "validation_loss"
WAIT_FOR_ROOM_S = 120.0
NODE_POLL_S = 5.0
Report = Callable[[Progress], None]


def _nothing(points: list[StepMetrics], progress: Progress) -> None:
    """Hear of steps, and do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchers:
    """Who is told how a run goes; `recorded` returns what of it is sealed with the version."""

    report: Report
    on_epoch: OnEpoch
    on_steps: OnSteps = _nothing
    recorded: Callable[[], RunMetrics] = RunMetrics


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A run that has ended: its best checkpoint, and files that are sealed with a version made of it."""

    checkpoint: VersionId
    files: dict[str, bytes]


def describe_cluster() -> Cluster:
    """Return what Ray's live nodes offer."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Cluster(
        node_cpus=tuple(float(node.get("CPU", 0)) for node in nodes),
        node_gpus=tuple(float(node.get("GPU", 0)) for node in nodes),
        accelerators=frozenset(key for node in nodes for key in node if key.startswith("accelerator_type:")),
    )


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
    objective = _objective(spec, card, dataset)
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
    try:
        placement = place_or_wait(spec, watchers.report)
        wait_for_room(placement, watchers.report)
    finally:
        if spec.resources.wait_for_nodes_s:
            request_resources(bundles=[])  # the request would outlive this job; the placement group holds the nodes
    watchers.report(Progress(phase=f"start {placement}", done=0, total=spec.epochs, unit="epochs"))
    config = loop_config(prepared, placement, run, runs_path, location, provenance)
    follower = RunFollower(run, runs_path / run, spec, watchers.on_epoch, watchers.on_steps, watchers.report)
    best = best_checkpoint(_fit(config, placement, runs_path, follower))
    return Trained(checkpoint=best, files=follower.files(watchers.recorded()))


def _objective(spec: TrainSpec, card: DatasetCard, dataset: OpenVersion) -> Objective:
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
    resources = {"CPU": placement.cpus} | ({"GPU": placement.gpus} if placement.gpus else {})
    return TorchTrainer(
        train_worker,
        train_loop_config={"config": config.model_dump_json(), "mailbox": mailbox},
        torch_config=TorchConfig(backend=placement.backend),
        scaling_config=ScalingConfig(
            num_workers=placement.workers, use_gpu=placement.gpus > 0, resources_per_worker=resources
        ),
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


def place_or_wait(spec: TrainSpec, report: Report) -> Placement:
    """Place a run on the cluster as it is, or, if the specification waits for nodes, as it becomes.

    Raises:
        RequestError: The cluster cannot hold it, and no node that could came in time.
    """
    end = time.monotonic() + spec.resources.wait_for_nodes_s
    while True:
        try:
            return place(spec, describe_cluster())
        except RequestError:
            if time.monotonic() >= end:
                raise
        gpus = spec.resources.gpus if isinstance(spec.resources.gpus, float) else 0.0
        bundle = {"CPU": spec.resources.cpus} | ({"GPU": gpus} if gpus else {})
        request_resources(bundles=[bundle] * spec.worker_range.min)
        report(Progress(phase="wait for nodes", unit="epochs"))
        time.sleep(NODE_POLL_S)


def wait_for_room(placement: Placement, report: Report, wait_s: float = WAIT_FOR_ROOM_S) -> None:
    """Return when the cluster has the placement's resources free.

    Raises:
        UnavailableError: Others hold them for longer than `wait_s` seconds.
    """
    needed = {
        "CPU": placement.workers * placement.cpus + DATA_CPUS,
        "GPU": placement.workers * placement.gpus,
    }
    end = time.monotonic() + wait_s
    while True:
        free = ray.available_resources()
        short = {k: v - free.get(k, 0.0) for k, v in needed.items() if v > free.get(k, 0.0) + 1e-6}
        if not short:
            return
        lacking = ", ".join(f"{value:g} {key}" for key, value in short.items())
        if time.monotonic() > end:
            raise UnavailableError(
                f"The cluster stayed busy for {wait_s:g} s: {lacking} more must be free for {placement}. Try again "
                "later, lower `workers`, or add nodes."
            )
        report(Progress(phase=f"wait for {lacking}", unit="epochs"))
        time.sleep(0.5)


def best_checkpoint(result: Result) -> VersionId:
    """Return the sealed checkpoint with the lowest validation loss, the earlier one of equals.

    Raises:
        JobError: The run reported none.
    """
    if not result.best_checkpoints:
        raise JobError("The run ended without a checkpoint; see its log.")
    scored = [(metrics[SCORE], metrics["epoch"], checkpoint) for checkpoint, metrics in result.best_checkpoints]
    return read_pointer(min(scored, key=lambda item: item[:2])[2])
