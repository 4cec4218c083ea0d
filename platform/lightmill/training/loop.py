"""The work of one training worker: epochs of optimizer steps, measured, checkpointed, resumable.

What a run's numbers mean: batches of `batch_size` rows over all workers, one update each, the mean loss over all
workers, metrics on the validation split, one report an epoch. How workers compute a step together is their strategy's.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.train import get_context
from ray.train.torch import get_device

from lightmill.datasets.dealing import deal_split
from lightmill.datasets.reading import open_version, split_files
from lightmill.errors import IntegrityError, RequestError
from lightmill.models.architectures import seeded
from lightmill.records.assets import Provenance, RunCard
from lightmill.records.base import Record
from lightmill.records.references import VersionId
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.records.splitting import DistributionSpec
from lightmill.registry import OpenVersion, RegistryLocation
from lightmill.training.checkpoints import Position, load_state, seal_state
from lightmill.training.feed import Feed, KeptFeed, Origin, whole_batch
from lightmill.training.lanes import Lanes
from lightmill.training.objectives import OBJECTIVES, Batch, Objective
from lightmill.training.repeating import deterministic_kernels, hardware_of, seed_at
from lightmill.training.rows import Rows
from lightmill.training.session import RaySession, Session
from lightmill.training.strategies import STRATEGIES, Setting, Strategy
from lightmill.training.stream import StreamedFeed
from lightmill.training.tally import Tally
from lightmill.training.team import Team
from lightmill.training.watching.mailbox import RayTell
from lightmill.training.watching.observer import Observer
from lightmill.training.watching.parts import Tell
from lightmill.training.weighing import cut, weighed


class LoopConfig(Record):
    """Everything a worker needs; it is visible in Ray's state API and holds no secret.

    `lanes` are those the rows are dealt to, `streamed` whether rows stay on the store between epochs.
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
    lanes: int
    streamed: bool = False
    allow_python: bool = False


def train_worker(config: dict[str, Any]) -> None:
    """Train; the entry that Ray Train calls in every worker. `mailbox` is the handle of one, if steps are watched."""
    found = LoopConfig.model_validate_json(config["config"])
    context = get_context()
    device = get_device() if found.device == "cuda" else torch.device("cpu")
    team = Team(
        rank=context.get_world_rank(), world=context.get_world_size(), device=device, node=context.get_node_rank()
    )
    mailbox = config.get("mailbox")
    run_epochs(found, team, RaySession(Path(found.run_folder)), RayTell(mailbox) if mailbox is not None else None)


def run_epochs(config: LoopConfig, team: Team, session: Session, tell: Tell | None = None) -> None:
    """Train all epochs that are not done yet, reporting each; `tell` hears of steps."""
    torch.set_num_threads(config.threads)
    with deterministic_kernels(config.spec.deterministic):
        worker = Worker(config, team, session, tell)
        try:
            worker.train()
        finally:
            worker.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What an epoch's steps came to: the sums of what was counted, and how long it took in seconds."""

    totals: torch.Tensor
    steps: int
    seconds: float


class Worker:
    """One worker of a run, from its data to its reports."""

    def __init__(self, config: LoopConfig, team: Team, session: Session, tell: Tell | None = None) -> None:
        """Read this worker's rows, build the model, and take over the last checkpoint if there is one."""
        self._config = config
        self._spec = config.spec
        self._team = team
        self._session = session
        dataset = open_version(config.location, config.dataset)  # pyright: ignore[reportArgumentType] - frozen records hash
        card = dataset.manifest.dataset
        if card is None:
            raise IntegrityError(f"{config.dataset} carries no card; it was published by something else.")
        self._objective = OBJECTIVES[self._spec.objective](card, config.architecture)
        self._rows = Rows(self._objective, card, allow_python=config.allow_python)
        origin = training_rows(dataset, config)
        self._lanes = Lanes([len(places) for places in origin.places], self._spec.batch_size)
        self._strategy = STRATEGIES[self._spec.strategy.name](
            Setting(spec=self._spec, team=team, objective=self._objective, epoch_steps=self._lanes.steps)
        )
        self._strategy.prepare(seeded(self._spec.seed, config.architecture))
        self._position, self._carried = self._resumed()
        share = self._lanes.share(self._strategy.data_rank, self._strategy.data_world)
        feed = StreamedFeed if config.streamed else KeptFeed
        self._feed: Feed = feed(origin, self._rows, self._lanes, share, self._spec.seed, team.device)
        self._validation = self._validation_rows(dataset)
        self._watch = Observer(self._strategy, tell)
        gc.collect()
        gc.freeze()  # what is loaded now stays; the collector need not walk a million objects between steps

    def train(self) -> None:
        """Run the epochs that are left."""
        for epoch in range(self._position.epoch, self._spec.epochs):
            done = self._epoch(epoch, self._position.step)
            self._strategy.end_epoch()
            metrics = epoch_metrics(self._objective, done) | self._watch.epoch_metrics()
            metrics |= self._evaluated() | self._strategy.measured()
            self._report(Position(epoch=epoch + 1, step=0), metrics | {"epoch": epoch + 1})
            self._carried = None
        self._watch.finish()

    def close(self) -> None:
        """End what the strategy started."""
        self._strategy.close()

    def _epoch(self, number: int, first_step: int) -> Epoch:
        tally = Tally(self._objective)
        seed_at(self._spec.seed, self._strategy.data_rank, number, first_step)
        started = 0.0
        step = first_step
        for step, batch in enumerate(self._watch.feeding(self._feed.epoch(number, first_step)), first_step):
            started = started or time.perf_counter()
            rows = self._lanes.rows(step)
            counted = self._strategy.step(weighed(self._strategy, cut(batch, self._spec.accumulate), rows))
            tally.add(counted)
            self._watch.stepped(number, step, rows, counted)
        seconds = max(time.perf_counter() - started, 1e-9)
        totals = self._strategy.combined(tally.totals())
        if self._carried is not None:
            totals = totals + self._carried
        return Epoch(totals=totals, steps=step + 1 - first_step, seconds=seconds)

    def _evaluated(self) -> dict[str, float]:
        """Return loss and metrics of the validation split, computed by all workers."""
        tally = Tally(self._objective)
        for batch in self._validation:
            tally.add(self._strategy.infer(batch))
        found = self._objective.metrics(self._strategy.combined(tally.totals()))
        return {f"validation_{name}": value for name, value in found.items()}

    def _validation_rows(self, dataset: OpenVersion) -> list[Batch]:
        """Return this worker's part of the validation split; all workers have equally many batches."""
        rows = sum(entry.rows or 0 for entry in split_files(dataset, "validation"))
        world = self._strategy.data_world
        places = np.array_split(np.arange(rows, dtype=np.int64), world)[self._strategy.data_rank]
        origin = Origin(dataset, self._config.location, "validation", (places,))
        whole = whole_batch(origin.table(places, self._rows.columns), self._rows, self._team.device)
        together = self._objective.rows_together(self._spec.batch_size // world or 1)
        return cut(whole, math.ceil(math.ceil(rows / world) / together))

    def _resumed(self) -> tuple[Position, torch.Tensor | None]:
        version = self._session.checkpoint()
        if version is None:
            return Position(epoch=0, step=0), None
        loaded = load_state(self._config.location.open().open(version), self._strategy.state())
        self._strategy.load_state(loaded.state)
        return loaded.position, loaded.totals

    def _report(self, position: Position, metrics: dict[str, float], totals: torch.Tensor | None = None) -> None:
        state = self._strategy.state()
        if not self._team.leads:
            self._session.report(metrics)
            return
        config = self._config
        card = RunCard(model=self._spec.model, epoch=position.epoch, step=position.step, metrics=metrics)
        origin = config.provenance.model_copy(update={"hardware": hardware_of(self._team)})
        self._session.report(
            metrics,
            lambda: seal_state(config.location, config.run, card, state, position, totals, origin),
        )


def training_rows(dataset: OpenVersion, config: LoopConfig) -> Origin:
    """Return the rows of the training split, dealt to lanes."""
    spec = config.spec.distribution or DistributionSpec(
        by="sequential" if config.streamed else "random", seed=config.spec.seed
    )
    places = deal_split(dataset, config.location, spec, config.lanes)
    return Origin(dataset, config.location, "train", places)


def epoch_metrics(objective: Objective, done: Epoch) -> dict[str, float]:
    """Return the loss, the other metrics as `train_...`, and what was done in a second.

    Raises:
        RequestError: The loss is not finite.
    """
    found = objective.metrics(done.totals)
    if not math.isfinite(found["loss"]):
        raise RequestError(
            "The loss is not finite any more; lower `learning_rate`, or look for extreme values in the dataset."
        )
    return {
        **{key if key == "loss" else f"train_{key}": value for key, value in found.items()},
        "steps_per_second": done.steps / done.seconds,
        **objective.rates(done.totals, done.seconds),
    }


def evaluate(module: torch.nn.Module, batches: Iterable[Batch], objective: Objective) -> dict[str, float]:
    """Return loss and metrics of some batches, in this process alone."""
    module.eval()
    tally = Tally(objective)
    with torch.inference_mode():
        for batch in batches:
            tally.add([objective.step(module, batch)])
    totals = tally.totals()
    if totals is None:
        raise RequestError("There are no rows to evaluate on.")
    return objective.metrics(totals)


__all__ = ["LoopConfig", "Strategy", "Worker", "evaluate", "run_epochs", "train_worker"]
