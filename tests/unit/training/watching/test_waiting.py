"""Two processes over gloo, one with a slow source of rows: who waits, and for what, is seen."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from lightmill.training.objectives import Batch
from lightmill.training.team import Team
from lightmill.training.watching.observer import Observer
from lightmill.training.weighing import weighed
from tests.unit.training.strategies.cases import labelled
from tests.unit.training.watching.test_observer import Heard, strategy_of

STEPS, SLOW_S = 12, 0.1


def slow(rows: Batch, seconds: float) -> Iterator[Batch]:
    for _ in range(STEPS):
        time.sleep(seconds)
        yield rows


def member(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        heard, rows = Heard(), labelled().rows
        strategy = strategy_of(STEPS, Team.joined(), workers=2, epochs=1, watch={"every_steps": STEPS})
        watch = Observer(strategy, heard)
        for step, batch in enumerate(watch.feeding(slow(rows, SLOW_S * rank))):
            counted = strategy.step(weighed(strategy, [batch], 2 * len(rows[0])))
            watch.stepped(0, step, 2 * len(rows[0]), counted)
        watch.finish()
        torch.save(heard.found, Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_a_worker_waits_for_another_that_waits_for_rows(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.start_processes(member, args=(port, str(tmp_path)), nprocs=2, start_method="forkserver")
    (quick,), (late,) = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    assert (quick.step, late.step, quick.data_world) == (STEPS, STEPS, 2)
    assert late.data_wait_s >= STEPS * SLOW_S > quick.data_wait_s
    # The first step may meet the other at any moment of its sleep, every later one waits the whole of it.
    assert quick.blocked_s > 0.5 * STEPS * SLOW_S
    assert quick.shown["learning_rate"] and not late.shown
