"""Workers that train together for some seconds, and how fast each was: what train_scaling and ps_vs_allreduce time.

They step as the workers of a run do (`strategy.step` on weighed parts), on rows in memory, one thread each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from lightmill.models.architectures import seeded
from lightmill.records.signature import Architecture
from lightmill.training.objectives import Batch, CrossEntropy, Step
from lightmill.training.strategies import STRATEGIES, Setting, Strategy
from lightmill.training.tally import Tally
from lightmill.training.team import Team
from lightmill.training.weighing import cut, weighed
from tests.attacks.scene import dataset_card
from tests.teams import Case, spec_of

FEATURES, CLASSES, ROWS, HELD_OUT = 256, 10, 8192, 2048
CHUNK = 8
WARM_STEPS = 4


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train, for how long, and who is slow: worker 0 sleeps so that its computing takes `slow_factor`."""

    seconds: float
    strategy: dict[str, Any]
    batch_size: int
    hidden: list[int]
    slow_factor: float = 1.0
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One worker's: steps and rows in the seconds it took, what one computation takes alone, the loss at the end."""

    steps: int
    rows: int
    seconds: float
    compute_s: float
    loss: float
    measured: dict[str, float]


class Paced(CrossEntropy):
    """Sleeps before each loss that is trained on."""

    pause_s: float = 0.0

    def step(self, module: nn.Module, batch: Batch) -> Step:
        """See the base."""
        if self.pause_s and module.training:
            time.sleep(self.pause_s)
        return super().step(module, batch)


def problem(hidden: list[int]) -> Case:
    """Return labels that a random network gives to random features."""
    made = torch.Generator().manual_seed(7)
    features = torch.randn(ROWS + HELD_OUT, FEATURES, generator=made)
    teacher = nn.Sequential(nn.Linear(FEATURES, 64), nn.Tanh(), nn.Linear(64, CLASSES))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.normal_(0, 0.3, generator=made)
        labels = teacher(features).argmax(dim=1)
    card = dataset_card(classes=tuple(f"c{number}" for number in range(CLASSES)))
    shaped = card.model_copy(update={"features": card.features.model_copy(update={"shape": (FEATURES,)})})
    objective = Paced(shaped, Architecture(name="mlp", arguments={"hidden": hidden}))
    return Case(objective=objective, rows=(features, labels))


def train_for(job: Job, team: Team) -> Speed:
    """Train as one of a team until the time is over, and measure."""
    torch.set_num_threads(1)
    case = problem(job.hidden)
    spec = spec_of(case, batch_size=job.batch_size, workers=team.world, strategy=job.strategy, **job.more)
    setting = Setting(spec=spec, team=team, objective=case.objective, epoch_steps=ROWS // job.batch_size)
    strategy = STRATEGIES[spec.strategy.name](setting)
    strategy.prepare(seeded(spec.seed, case.objective.architecture))
    each = job.batch_size // team.world
    mine = torch.arange(ROWS)[team.rank :: team.world]
    shuffling = torch.Generator().manual_seed(team.rank)
    compute_s = _compute(case, spec.seed, each)
    if job.slow_factor > 1 and team.rank == 0 and isinstance(case.objective, Paced):
        case.objective.pause_s = (job.slow_factor - 1) * compute_s

    def one_step() -> None:
        some = mine[torch.randint(len(mine), (each,), generator=shuffling)]
        batch = tuple(tensor[some] for tensor in case.rows)
        strategy.step(weighed(strategy, cut(batch, spec.accumulate), job.batch_size))

    try:
        for _ in range(WARM_STEPS):
            one_step()
        strategy.end_epoch()
        strategy.measured()
        if team.world > 1:
            dist.barrier()
        started = time.perf_counter()
        steps = _until(one_step, started + job.seconds, alone=_waits_for_nobody(job, team))
        seconds = time.perf_counter() - started
        strategy.end_epoch()
        return Speed(
            steps=steps,
            rows=steps * each,
            seconds=seconds,
            compute_s=compute_s,
            loss=_held_out(strategy, case, team),
            measured=strategy.measured(),
        )
    finally:
        if team.world > 1:
            dist.barrier()
        strategy.close()


def _waits_for_nobody(job: Job, team: Team) -> bool:
    return team.world == 1 or job.strategy.get("consistency") == "asp"


def _until(one_step: Callable[[], None], end: float, *, alone: bool) -> int:
    """Step until the time is over; workers that wait for each other agree on the end every few steps."""
    steps = 0
    while True:
        for _ in range(1 if alone else CHUNK):
            one_step()
            steps += 1
        over = torch.tensor(float(time.perf_counter() >= end))
        if not alone:
            dist.all_reduce(over, op=dist.ReduceOp.MAX)
        if over:
            return steps


def _compute(case: Case, seed: int, rows: int) -> float:
    """Return the seconds of forward, backward and update of some rows, with nothing sent; all workers at once."""
    module = seeded(seed, case.objective.architecture)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    batch = tuple(tensor[:rows] for tensor in case.rows)
    took = []
    for _ in range(12):
        started = time.perf_counter()
        optimizer.zero_grad()
        case.objective.step(module, batch).loss.backward()
        optimizer.step()
        took.append(time.perf_counter() - started)
    return sorted(took)[len(took) // 2]


def _held_out(strategy: Strategy, case: Case, team: Team) -> float:
    tally = Tally(case.objective)
    share = slice(ROWS + team.rank, None, team.world)
    tally.add(strategy.infer(tuple(tensor[share] for tensor in case.rows)))
    return case.objective.metrics(strategy.combined(tally.totals()))["loss"]


def member(rank: int, world: int, port: int, jobs: list[Job]) -> list[Speed]:
    """Join a team over gloo on the loopback interface, and do some jobs one after another."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    if world > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    try:
        return [train_for(job, Team.joined()) for job in jobs]
    finally:
        if world > 1:
            dist.destroy_process_group()


def all_reduce_times(rank: int, world: int, port: int, sizes: list[int]) -> list[float]:
    """Return the median seconds of all-reduces of so many bytes."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    found = []
    for size in sizes:
        values, took = torch.zeros(size // 4), []
        for _ in range(15):
            dist.barrier()
            started = time.perf_counter()
            dist.all_reduce(values)
            took.append(time.perf_counter() - started)
        found.append(sorted(took)[len(took) // 2])
    dist.destroy_process_group()
    return found
