"""The training loop of one worker; Ray Train runs it in every worker at once.

The life of an epoch: batches of this worker's shard, one optimizer step each (DistributedDataParallel
averages the gradients), the mean loss over all workers, accuracy on the validation split, one report.
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
from torch.nn import functional

from lightmill.datasets.reading import read_rows
from lightmill.errors import RequestError
from lightmill.models.architectures import seeded
from lightmill.records.assets import Provenance, RunCard
from lightmill.records.base import Record
from lightmill.records.references import VersionId
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.registry import RegistryLocation
from lightmill.training.batches import Batch, Batches, to_tensors
from lightmill.training.checkpoints import (
    load_snapshot,
    read_pointer,
    report_sealed,
    restore,
    seal_snapshot,
    take_snapshot,
)


class LoopConfig(Record):
    """Everything a worker needs; it is visible in Ray's state API and holds no secret."""

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
    module = prepare_model(seeded(spec.seed, config.architecture), move_to_device=device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    first = _resume(config, module, optimizer)
    batches = Batches(
        ray.train.get_dataset_shard("train"),  # pyright: ignore[reportArgumentType]
        spec.batch_size // world,
        spec.seed * world + rank,
        device,
        config.shard_bytes,
    )
    validation = read_validation(config, device) if rank == 0 else None
    gc.collect()
    gc.freeze()  # what is loaded now stays; the collector need not walk a million objects between steps
    for epoch in range(first, spec.epochs):
        metrics = train_epoch(module, optimizer, batches.epoch(epoch), device)
        if validation is None:
            ray.train.report(metrics)
            continue
        metrics |= evaluate(module, validation)
        _report(config, epoch + 1, metrics, module, optimizer)


def read_validation(config: LoopConfig, device: torch.device) -> Batch:
    """Return the whole validation split, decrypted in this process: it is small, and one worker reads it."""
    dataset = config.location.open().open(config.dataset)
    return to_tensors(read_rows(dataset, config.location, "validation"), device)


def train_epoch(
    module: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterator[Batch], device: torch.device
) -> dict[str, float]:
    """Run one epoch; return the mean loss and accuracy over all workers and this worker's steps a second."""
    module.train()
    tally = Tally()
    steps, started = 0, 0.0
    for features, label in batches:
        started = started or time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        logits = module(features)
        loss = functional.cross_entropy(logits, label)
        loss.backward()
        optimizer.step()
        tally.add(loss, logits, label)
        steps += 1
    elapsed = max(time.perf_counter() - started, 1e-9)
    totals = tally.totals().to(device)
    if dist.is_initialized():
        dist.all_reduce(totals)
    loss_sum, correct, rows = totals.tolist()
    if not math.isfinite(loss_sum):
        raise RequestError(
            "The loss is not finite any more; lower `learning_rate`, or look for extreme values in the dataset."
        )
    return {
        "loss": loss_sum / rows,
        "train_accuracy": correct / rows,
        "steps_per_second": steps / elapsed,
    }


class Tally:
    """Adds up loss and hits over steps, many steps at a time, so that counting costs a step next to nothing."""

    FLUSH_STEPS = 256

    def __init__(self) -> None:
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._sums = torch.zeros(3, dtype=torch.float64)

    def add(self, loss: torch.Tensor, logits: torch.Tensor, label: torch.Tensor) -> None:
        """Count one step: its mean loss, its logits [batch, classes] and its labels [batch]."""
        self._waiting.append((loss.detach(), logits.detach(), label))
        if len(self._waiting) == self.FLUSH_STEPS:
            self._flush()

    def totals(self) -> torch.Tensor:
        """Return the summed loss, the hits and the rows: float64 [3]."""
        self._flush()
        return self._sums.clone()

    def _flush(self) -> None:
        if not self._waiting:
            return
        losses, logits, labels = zip(*self._waiting, strict=True)
        self._waiting = []
        rows = torch.tensor([len(label) for label in labels], dtype=torch.float64)
        hits = (torch.cat(logits).argmax(dim=1) == torch.cat(labels)).sum()
        loss = (torch.stack(losses).double().cpu() * rows).sum()
        self._sums += torch.stack([loss, hits.double().cpu(), rows.sum()])


def evaluate(module: nn.Module, data: Batch) -> dict[str, float]:
    """Return loss and accuracy on the validation split; it asks nothing of the other workers."""
    inner = getattr(module, "module", module)
    inner.eval()
    features, label = data
    with torch.inference_mode():
        logits = inner(features)
        loss = functional.cross_entropy(logits, label)
        accuracy = (logits.argmax(dim=1) == label).double().mean()
    return {"validation_loss": float(loss), "validation_accuracy": float(accuracy)}


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
