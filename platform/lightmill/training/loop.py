"""The work of one training worker: epochs of optimizer steps, measured, checkpointed, resumable.

What a run's numbers mean: batches of `batch_size` rows over all workers, one optimizer step each
(DistributedDataParallel averages the gradients), the mean loss over all workers, metrics on the validation split, one
report. Where workers' batches do not weigh the same, losses are weighted: a step is that of one worker with the whole
batch.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator
from pathlib import Path

import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import get_device, prepare_model
from torch import nn

from lightmill.datasets.reading import open_version, read_rows
from lightmill.errors import IntegrityError, RequestError
from lightmill.models.architectures import seeded
from lightmill.records.assets import DatasetCard, Provenance, RunCard
from lightmill.records.base import Record
from lightmill.records.references import VersionId
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.registry import RegistryLocation
from lightmill.training.batches import Batches, step_sizes
from lightmill.training.checkpoints import (
    load_snapshot,
    read_pointer,
    report_sealed,
    restore,
    seal_snapshot,
    take_snapshot,
)
from lightmill.training.objectives import OBJECTIVES, Batch, Objective, Step
from lightmill.training.rows import Rows

SHARD = "train"


class LoopConfig(Record):
    """Everything a worker needs; it is visible in Ray's state API and holds no secret.

    `worker_rows` are the rows of each worker where the specification distributes them.
    """

    spec: TrainSpec
    architecture: Architecture
    run: str
    run_folder: str
    location: RegistryLocation
    dataset: VersionId
    provenance: Provenance
    device: str
    threads: int
    shard_bytes: int
    worker_rows: tuple[int, ...] = ()
    allow_python: bool = False


def shard_name(rank: int) -> str:
    """Return the name of the rows of one worker, where the specification distributes them."""
    return f"{SHARD}-{rank}"


def train_worker(config: dict[str, str]) -> None:
    """Train; the entry that Ray Train calls in every worker."""
    run_epochs(LoopConfig.model_validate_json(config["config"]))


def run_epochs(config: LoopConfig) -> None:
    """Train all epochs that are not done yet, reporting each."""
    spec = config.spec
    torch.set_num_threads(config.threads)
    torch.manual_seed(spec.seed)
    device = get_device() if config.device == "cuda" else torch.device("cpu")
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    card = _card(config)
    objective = OBJECTIVES[spec.objective](card, config.architecture)
    rows = Rows(objective, card, allow_python=config.allow_python)
    module = prepare_model(seeded(spec.seed, config.architecture), move_to_device=device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    first = _resume(config, module, optimizer)
    batches = worker_batches(config, rows, rank, world, device)
    validation = read_validation(config, rows, device) if rank == 0 else None
    gc.collect()
    gc.freeze()  # what is loaded now stays; the collector need not walk a million objects between steps
    weigh = world > 1 and (objective.weighted or bool(config.worker_rows))
    for epoch in range(first, spec.epochs):
        metrics = train_epoch(module, optimizer, batches.epoch(epoch), objective, device, weigh=weigh)
        if validation is None:
            ray.train.report(metrics)
            continue
        found = evaluate(module, validation, objective, spec.batch_size // world)
        metrics |= {f"validation_{key}": value for key, value in found.items()}
        _report(config, epoch + 1, metrics, module, optimizer)


def worker_batches(config: LoopConfig, rows: Rows, rank: int, world: int, device: torch.device) -> Batches:
    """Return the batches of this worker; every worker takes as many steps as the one with the most rows needs."""
    batch_rows = config.spec.batch_size // world
    sizes: tuple[int, ...] = ()
    if config.worker_rows:
        sizes = step_sizes(config.worker_rows[rank], math.ceil(max(config.worker_rows) / batch_rows))
    return Batches(
        ray.train.get_dataset_shard(shard_name(rank) if sizes else SHARD),  # pyright: ignore[reportArgumentType]
        rows,
        batch_rows,
        config.spec.seed * world + rank,
        device,
        config.shard_bytes,
        sizes,
    )


def read_validation(config: LoopConfig, rows: Rows, device: torch.device) -> Batch:
    """Return the whole validation split, decrypted in this process: it is small, and one worker reads it."""
    dataset = config.location.open().open(config.dataset)
    return tuple(tensor.to(device) for tensor in rows.batch(read_rows(dataset, config.location, "validation")))


def train_epoch(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    objective: Objective,
    device: torch.device,
    *,
    weigh: bool = False,
) -> dict[str, float]:
    """Run one epoch; return the mean loss and metrics over all workers and this worker's steps a second.

    With `weigh`, a worker's loss weighs as much as it counts, by one more message among the workers in each step.
    """
    module.train()
    tally = Tally(objective)
    steps, started = 0, 0.0
    for batch in batches:
        started = started or time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        step = objective.step(module, batch)
        loss = step.loss * weight(step.count, device) if weigh else step.loss
        loss.backward()
        optimizer.step()
        tally.add(step)
        steps += 1
    elapsed = max(time.perf_counter() - started, 1e-9)
    totals = tally.totals().to(device)
    if dist.is_initialized():
        dist.all_reduce(totals)
    found = objective.metrics(totals.cpu())
    if not math.isfinite(found["loss"]):
        raise RequestError(
            "The loss is not finite any more; lower `learning_rate`, or look for extreme values in the dataset."
        )
    return {
        **{key if key == "loss" else f"train_{key}": value for key, value in found.items()},
        "steps_per_second": steps / elapsed,
        **objective.rates(totals.cpu(), elapsed),
    }


def weight(count: torch.Tensor | int, device: torch.device) -> torch.Tensor:
    """Return what this worker's mean loss is multiplied by, so that the mean over workers is that over all counted."""
    total = torch.as_tensor(count, dtype=torch.float64, device=device).clone()
    own = total.clone()
    dist.all_reduce(total)
    return (own * dist.get_world_size() / total.clamp(min=1.0)).float()


class Tally:
    """Adds up what an objective counts, many steps at a time, so that counting costs a step next to nothing."""

    FLUSH_STEPS = 256

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._waiting: list[Step] = []
        self._sums: torch.Tensor | None = None

    def add(self, step: Step) -> None:
        """Count one step."""
        self._waiting.append(Step(loss=step.loss.detach(), count=step.count, kept=step.kept))
        if len(self._waiting) == self.FLUSH_STEPS:
            self._flush()

    def totals(self) -> torch.Tensor:
        """Return the sums, as `Objective.add_up` gives them; there was at least one step."""
        self._flush()
        if self._sums is None:
            raise RequestError("A worker got no rows to train on; lower `workers` or `batch_size`.")
        return self._sums.clone()

    def _flush(self) -> None:
        if self._waiting:
            found = self._objective.add_up(self._waiting)
            self._sums = found if self._sums is None else self._sums + found
            self._waiting = []


def evaluate(module: nn.Module, data: Batch, objective: Objective, batch_rows: int) -> dict[str, float]:
    """Return loss and metrics of rows that are not trained on; it asks nothing of the other workers."""
    inner = getattr(module, "module", module)
    inner.eval()
    tally = Tally(objective)
    with torch.inference_mode():
        parts = (tensor.split(objective.rows_together(batch_rows)) for tensor in data)
        for batch in zip(*parts, strict=True):
            tally.add(objective.step(inner, batch))
    return objective.metrics(tally.totals())


def _card(config: LoopConfig) -> DatasetCard:
    card = open_version(config.location, config.dataset).manifest.dataset  # pyright: ignore[reportArgumentType] - frozen records hash
    if card is None:
        raise IntegrityError(f"{config.dataset} carries no card; it was published by something else.")
    return card


def _resume(config: LoopConfig, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore the last checkpoint, if there is one; return the first epoch still to do."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    version = config.location.open().open(read_pointer(checkpoint))
    snapshot = load_snapshot(version)
    restore(snapshot, module, optimizer)
    return snapshot.epoch


def _report(
    config: LoopConfig,
    epoch: int,
    metrics: dict[str, float],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    card = RunCard(model=config.spec.model, epoch=epoch, metrics=metrics)
    report_sealed(
        metrics | {"epoch": epoch},
        Path(config.run_folder),
        lambda: seal_snapshot(
            config.location, config.run, card, take_snapshot(epoch, module, optimizer), config.provenance
        ),
    )
