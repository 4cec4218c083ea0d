"""Sharded training by hand and ours, in turns in the same two processes.

By hand is what a careful engineer writes: FSDP2 on each block and the whole, AdamW, rows in memory, the mean loss of
this worker's tokens. Ours is the strategy with what the training loop does around it: weights of parts, and counts.

Run: torchrun --standalone --nproc-per-node=2 -m benchmarks.fsdp_turns TURNS STEPS
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

from lightmill.models.architectures import seeded
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.training.objectives import CausalLanguage
from lightmill.training.strategies import STRATEGIES, Setting
from lightmill.training.tally import Tally
from lightmill.training.team import Team
from lightmill.training.weighing import cut, weighed
from tests.unit.training.test_objectives import texts

LENGTH, VOCABULARY, BATCH, ROWS = 128, 400, 8, 64
SIZES = {"width": 320, "layers": 8, "heads": 5}
Take = Callable[[torch.Tensor], None]


def by_hand(tokens: torch.Tensor, architecture: Architecture) -> Take:
    """Return one step of the loop by hand on some rows."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = seeded(7, architecture)
    for block in model.get_submodule("blocks").children():
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.0)
    segments = torch.ones_like(tokens)
    total = torch.zeros(())

    def step(chosen: torch.Tensor) -> None:
        nonlocal total
        optimizer.zero_grad()
        some = tokens[chosen]
        logits = model(some, segments[chosen])[:, :-1]
        loss = functional.cross_entropy(logits.reshape(-1, VOCABULARY), some[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
        total += loss.detach()

    return step


def ours(tokens: torch.Tensor, objective: CausalLanguage) -> Take:
    """Return one step of our loop on some rows."""
    spec = TrainSpec.model_validate(
        {
            "model": "m",
            "dataset": "d",
            "architecture": objective.architecture,
            "objective": "causal_lm",
            "batch_size": BATCH,
            "strategy": "fsdp",
        }
    )
    setting = Setting(spec=spec, team=Team.joined(), objective=objective, epoch_steps=ROWS // BATCH)
    strategy = STRATEGIES["fsdp"](setting)
    strategy.prepare(seeded(7, objective.architecture))
    tally = Tally(objective)
    segments = torch.ones_like(tokens)

    def step(chosen: torch.Tensor) -> None:
        batch = (tokens[chosen], segments[chosen])
        tally.add(strategy.step(weighed(strategy, cut(batch, spec.accumulate), BATCH)))

    return step


def timed(step: Take, steps: int) -> float:
    """Return the steps a second of some steps."""
    world, rank = dist.get_world_size(), dist.get_rank()
    dist.barrier()
    started = time.perf_counter()
    for place in range(steps):
        rows = torch.arange(place * BATCH, (place + 1) * BATCH) % ROWS
        step(rows[rank::world])
    return steps / (time.perf_counter() - started)


def main() -> None:
    """Train in turns; the first of each turn changes; rank 0 prints all speeds as JSON."""
    turns, steps = int(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    objective = CausalLanguage(
        texts(length=LENGTH, vocabulary=VOCABULARY), Architecture(name="decoder", arguments=dict(SIZES))
    )
    tokens = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(3))
    both = {"ours": ours(tokens, objective), "peer": by_hand(tokens, objective.architecture)}
    for step in both.values():
        timed(step, 2)
    speeds: dict[str, list[float]] = {name: [] for name in both}
    for turn in range(turns):
        for name in sorted(both, reverse=bool(turn % 2)):
            speeds[name].append(timed(both[name], steps))
    if dist.get_rank() == 0:
        sys.stdout.write(json.dumps(speeds) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
