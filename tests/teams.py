"""Processes over gloo that train together as the workers of a run do, without Ray: what strategies are tested with."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from lightmill.models.architectures import seeded
from lightmill.records.specs import TrainSpec
from lightmill.training.lanes import Lanes, lane_count
from lightmill.training.objectives import Batch, Objective
from lightmill.training.strategies import STRATEGIES, Setting, Strategy
from lightmill.training.tally import Tally
from lightmill.training.team import Team
from lightmill.training.weighing import cut, weighed

multiprocessing.set_forkserver_preload(["tests.teams", "tests.unit.training.strategies.cases"])  # imports once


@dataclass(frozen=True, kw_only=True)
class Case:
    """An objective, which knows its architecture, and all training rows. Functions of it must pickle."""

    objective: Objective
    rows: Batch


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came out: the whole model's weights, the loss of each epoch, and whatever `after` returned, by rank."""

    weights: dict[str, torch.Tensor]
    losses: list[float]
    validation: float
    after: list[Any] = field(default_factory=list)


After = Callable[[Strategy], Any]


def spec_of(case: Case, **more: Any) -> TrainSpec:
    """A specification for a case; `more` are keys of it."""
    base: dict[str, Any] = {
        "model": "m",
        "dataset": "d",
        "architecture": case.objective.architecture,
        "objective": case.objective.name,
        "epochs": 2,
        "batch_size": 8,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "workers": 1,
    }
    return TrainSpec.model_validate(base | more)


def train_together(
    make: Callable[[], Case], world: int, tmp_path: Path, after: After | None = None, **more: Any
) -> Trained:
    """Train a case on `world` processes; `make` is a module's function, called in each of them."""
    if world == 1:
        return run(make, Team.alone(), after, more)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.start_processes(
        _member, args=(make, world, port, str(tmp_path), after, more), nprocs=world, start_method="forkserver"
    )
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(world)]
    return Trained(
        weights=found[0].weights,
        losses=found[0].losses,
        validation=found[0].validation,
        after=[one.after[0] for one in found],
    )


def _member(
    rank: int, make: Callable[[], Case], world: int, port: int, folder: str, after: After | None, more: dict[str, Any]
) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    try:
        torch.save(run(make, Team.joined(), after, more), Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()


def run(make: Callable[[], Case], team: Team, after: After | None, more: dict[str, Any]) -> Trained:
    """Train in this process as one of a team."""
    torch.set_num_threads(1)
    torch.manual_seed(team.rank)  # what is random inside a step differs between workers, as in a run
    case = make()
    spec = spec_of(case, **({"workers": team.world} | more))
    rows = len(case.rows[0])
    count = lane_count(spec.batch_size, team.world)
    places = [torch.arange(rows)[lane::count] for lane in range(count)]
    lanes = Lanes([len(one) for one in places], spec.batch_size)
    strategy = STRATEGIES[spec.strategy.name](
        Setting(spec=spec, team=team, objective=case.objective, epoch_steps=lanes.steps)
    )
    strategy.prepare(seeded(spec.seed, case.objective.architecture))
    share = lanes.share(strategy.data_rank, strategy.data_world)
    mine = torch.cat([places[lane] for lane in share])
    losses: list[float] = []
    try:
        for epoch in range(spec.epochs):
            tally = Tally(case.objective)
            order, starts = lanes.order(share, spec.seed, epoch)
            for step in range(lanes.steps):
                some = mine[torch.from_numpy(order[starts[step] : starts[step + 1]])]
                batch = tuple(tensor[some] for tensor in case.rows)
                tally.add(strategy.step(weighed(strategy, cut(batch, spec.accumulate), lanes.rows(step))))
            strategy.end_epoch()
            losses.append(case.objective.metrics(strategy.combined(tally.totals()))["loss"])
        tally = Tally(case.objective)
        tally.add(strategy.infer(tuple(tensor[strategy.data_rank :: strategy.data_world] for tensor in case.rows)))
        validation = case.objective.metrics(strategy.combined(tally.totals()))["loss"]
        return Trained(
            weights=strategy.weights(), losses=losses, validation=validation, after=[after(strategy) if after else None]
        )
    finally:
        strategy.close()


def same(one: Trained, other: Trained, *, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    """Assert that two runs came to the same weights and losses."""
    torch.testing.assert_close(torch.tensor(one.losses), torch.tensor(other.losses), rtol=rtol, atol=atol)
    torch.testing.assert_close(torch.tensor(one.validation), torch.tensor(other.validation), rtol=rtol, atol=atol)
    assert one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        torch.testing.assert_close(other.weights[name], value, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


__all__ = ["Case", "Trained", "same", "spec_of", "train_together"]
