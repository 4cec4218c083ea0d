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
from typing import Any

import numpy as np
import torch
from ray.train import get_context
from ray.train.torch import get_device

from lightmill.datasets.dealing import deal_split
from lightmill.datasets.reading import open_version, split_files
from lightmill.errors import IntegrityError, JobError, NotFoundError, RequestError, UnavailableError
from lightmill.records.assets import Provenance
from lightmill.records.base import Record
from lightmill.records.references import VersionId
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.records.splitting import DistributionSpec
from lightmill.registry import OpenVersion, RegistryLocation
from lightmill.training.checkpoints import Position, Run, Sealer, load_state
from lightmill.training.exchange import Exchange
from lightmill.training.feed import Feed, KeptFeed, Origin, whole_batch
from lightmill.training.guard import Guard
from lightmill.training.keeping import SCORE
from lightmill.training.lanes import Lanes
from lightmill.training.objectives import Batch, Objective, build_objective
from lightmill.training.pacing import Pace
from lightmill.training.repeating import deterministic_kernels, hardware_of, seed_at
from lightmill.training.rows import Rows
from lightmill.training.scores import Scores
from lightmill.training.session import RaySession, Session
from lightmill.training.starting import first_module
from lightmill.training.stopping import EarlyStopping
from lightmill.training.strategies import STRATEGIES, Setting, Strategy
from lightmill.training.stream import StreamedFeed
from lightmill.training.tally import Tally
from lightmill.training.team import Team
from lightmill.training.watching.mailbox import RayTell
from lightmill.training.watching.observer import Observer
from lightmill.training.watching.parts import Tell
from lightmill.training.weighing import cut, weighed

LOOK_S = 2.0
"""About how often workers ask whether a node is taken back, in seconds."""


class LoopConfig(Record):
    """Everything a worker needs; it is visible in Ray's state API and holds no secret.

    `base` is the version that the run starts from, `lanes` those the rows are dealt to, `streamed` whether rows stay on
    the store between epochs.
    """

    spec: TrainSpec
    architecture: Architecture
    run: str
    run_folder: str
    location: RegistryLocation
    dataset: VersionId
    base: VersionId | None = None
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
    tell = RayTell(mailbox) if mailbox is not None else None
    run_epochs(found, team, RaySession(found.location, found.run), tell)


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
        self._objective = build_objective(self._spec, card, config.architecture, allow_python=config.allow_python)
        self._rows = Rows(self._objective, card, allow_python=config.allow_python)
        origin = training_rows(dataset, config)
        self._lanes = Lanes([len(places) for places in origin.places], self._spec.batch_size)
        self._strategy = STRATEGIES[self._spec.strategy.name](
            Setting(spec=self._spec, team=team, objective=self._objective, epoch_steps=self._lanes.steps)
        )
        self._strategy.prepare(first_module(self._spec, config.architecture, self._base(), config.allow_python))
        run = Run(
            location=config.location,
            name=config.run,
            model=self._spec.model,
            provenance=config.provenance.model_copy(update={"hardware": hardware_of(team)}),
            spec=self._spec.checkpoints,
        )
        self._exchange = Exchange(team)
        self._pace = Pace(self._exchange, self._spec.checkpoints.pause_s)
        self._unreported: list[dict[str, float]] = []
        self._sealer = Sealer(run, team, session.published)
        self._position, self._carried = self._resumed()
        share = self._lanes.share(self._strategy.data_rank, self._strategy.data_world)
        feed = StreamedFeed if config.streamed else KeptFeed
        self._feed: Feed = feed(origin, self._rows, self._lanes, share, self._spec.seed, team.device)
        self._guard = Guard(team.rank, team.device, self._feed.row_ids, lambda: self._sealer.last)
        self._notice = Notice(session, self._exchange)
        self._validation = self._validation_rows(dataset)
        self._watch = Observer(self._strategy, tell)
        gc.collect()
        gc.freeze()  # what is loaded now stays; the collector need not walk a million objects between steps

    def train(self) -> None:
        """Run the epochs that are left, or as many as early stopping lets."""
        if self._sealer.epochs:
            self._session.report_again(list(self._sealer.epochs))
        if self._stopping.stops:
            return
        for epoch in range(self._position.epoch, self._spec.epochs):
            first = self._position.step if epoch == self._position.epoch else 0
            done = self._epoch(epoch, first)
            self._strategy.end_epoch()
            metrics = epoch_metrics(self._objective, done) | self._watch.epoch_metrics()
            metrics |= self._evaluated() | self._strategy.measured()
            if not math.isfinite(metrics[SCORE]):
                raise JobError(f"Training diverged: {SCORE} is {metrics[SCORE]} after epoch {epoch + 1}.")
            metrics |= self._stopping.observe(metrics)
            self._carried = None
            self._ended(epoch + 1, metrics | {"epoch": epoch + 1})
            if self._stopping.stops:
                break
        self._watch.finish()
        self._sealer.finish()

    def close(self) -> None:
        """End what the strategy started."""
        self._strategy.close()

    def _ended(self, epochs: int, metrics: dict[str, float]) -> None:
        """Report and seal what so many whole epochs came to, or keep it for a later report and checkpoint."""
        before = min((known[SCORE] for known in self._sealer.epochs), default=math.inf)
        self._sealer.epochs.append(metrics)
        self._unreported.append(metrics)
        due = self._pace.due(final=self._stopping.stops or epochs == self._spec.epochs)
        if due.report:
            self._session.report(self._unreported)
            self._unreported = []
        position = Position(epoch=epochs, step=0)
        if due.seal:
            self._sealer.seal(self._strategy.state(), position, metrics, None)
        elif metrics[SCORE] < before:
            self._sealer.hold(self._strategy.state(), position, metrics)

    def _epoch(self, number: int, first_step: int) -> Epoch:
        tally = Tally(self._objective)
        started = 0.0
        step = first_step
        self._draw_anew(number, first_step)
        for step, batch in enumerate(self._watch.feeding(self._feed.epoch(number, first_step)), first_step):
            started = started or time.perf_counter()
            rows = self._lanes.rows(step)
            counted = self._strategy.step(weighed(self._strategy, cut(batch, self._spec.accumulate), rows))
            self._guard.see(number, step, counted)
            tally.add(counted)
            self._watch.stepped(number, step, rows, counted)
            if step + 1 < self._lanes.steps and self._due(number, step + 1):
                self._guard.look()
                position = Position(epoch=number, step=step + 1)
                self._sealer.seal(self._strategy.state(), position, self._stopping.known, self._so_far(tally))
                self._draw_anew(number, step + 1)
        seconds = max(time.perf_counter() - started, 1e-9)
        self._guard.look()
        return Epoch(totals=self._so_far(tally), steps=step + 1 - first_step, seconds=seconds)

    def _so_far(self, tally: Tally) -> torch.Tensor:
        """Return the sums of an epoch over all workers, with those from before the run went on."""
        totals = self._strategy.combined(tally.totals())
        return totals if self._carried is None else totals + self._carried

    def _due(self, epoch: int, step: int) -> bool:
        """Return whether a checkpoint is sealed after so many steps of an epoch."""
        every = self._spec.checkpoints.every_steps
        regular = every > 0 and (epoch * self._lanes.steps + step) % every == 0
        return self._notice.came() or regular

    def _draw_anew(self, epoch: int, step: int) -> None:
        """Seed what is drawn from here on, such as dropout, so that a run that goes on here draws the same."""
        seed_at(self._spec.seed, self._strategy.data_rank, epoch, step)

    def _evaluated(self) -> dict[str, float]:
        """Return loss and metrics of the validation split, computed by all workers."""
        tally, scores = Tally(self._objective), Scores(self._objective, self._team.device)
        for batch in self._validation:
            steps = self._strategy.infer(batch)
            tally.add(steps)
            scores.add(steps)
        found = self._objective.metrics(self._strategy.combined(tally.totals())) | scores.found()
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

    def _base(self) -> OpenVersion | None:
        return None if self._config.base is None else self._config.location.open().open(self._config.base)

    def _resumed(self) -> tuple[Position, torch.Tensor | None]:
        version = self._exchange.from_leader(self._session.checkpoint() if self._team.leads else None)
        self._stopping = EarlyStopping(self._spec.early_stopping, {})
        if version is None:
            return Position(epoch=0, step=0), None
        try:
            found = self._config.location.open().open(version)
        except NotFoundError as exc:  # workers that were not gone yet have put another one in its place
            raise UnavailableError(f"Checkpoint {version} was replaced just now; try again.") from exc
        if found.manifest.run is not None:
            self._stopping = EarlyStopping(self._spec.early_stopping, found.manifest.run.metrics)
        loaded = load_state(found, self._strategy.state())
        self._strategy.load_state(loaded.state)
        self._sealer.last = version
        self._sealer.epochs.extend(loaded.epochs)
        return loaded.position, loaded.totals


class Notice:
    """Asks now and then whether a node of the run is taken back, and says so once."""

    def __init__(self, session: Session, exchange: Exchange) -> None:
        self._session = session
        self._exchange = exchange
        self._told = not session.watched
        self._began = time.perf_counter()
        self._asked = 0
        self._every = 0

    def came(self) -> bool:
        """Return whether a notice came since; all workers ask after the same steps."""
        if self._told:
            return False
        self._asked += 1
        if not self._every and self._asked == 3:
            seconds = (time.perf_counter() - self._began) / self._asked
            self._every = self._exchange.from_leader(max(1, int(LOOK_S / max(seconds, 1e-6))))
        if not self._every or self._asked % self._every:
            return False
        self._told = self._session.preempted()
        return self._told


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
    tally, scores = Tally(objective), Scores(objective)
    with torch.inference_mode():
        for batch in batches:
            steps = [objective.step(module, batch)]
            tally.add(steps)
            scores.add(steps)
    totals = tally.totals()
    if totals is None:
        raise RequestError("There are no rows to evaluate on.")
    return objective.metrics(totals) | scores.found(together=False)


__all__ = ["LoopConfig", "Strategy", "Worker", "evaluate", "run_epochs", "train_worker"]
