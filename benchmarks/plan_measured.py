"""`python -m benchmarks.plan_measured`: train one configuration, given as JSON on stdin, and print what memory it took.

Two measures, each of a process of its own. `resident`: how far the process's resident memory rose, from after imports
and a first small run to its highest (VmHWM, which is set back in between), with every block above 64 kB mapped on its
own, so that what is freed is given back; scratch space of kernels counts. `tensors`: the most that torch's allocator
held at once, as torch's profiler logs it. Rows of the dataset lie outside of both.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from benchmarks.plan_cases import objective_of, rows_of
from lightmill.models.architectures import seeded
from lightmill.records.specs import TrainSpec
from lightmill.training.strategies import STRATEGIES, Setting
from lightmill.training.tally import Tally
from lightmill.training.team import Team
from lightmill.training.weighing import cut, weighed

STEPS = 3


def main() -> int:
    """Train, and print the bytes."""
    asked = json.load(sys.stdin)
    torch.set_num_threads(1)
    spec = TrainSpec.model_validate(asked["spec"])
    if asked["world"] > 1:
        where = f"tcp://127.0.0.1:{asked['port']}"
        dist.init_process_group("gloo", init_method=where, rank=asked["rank"], world_size=asked["world"])
    train(spec, asked, small=True)
    found = _tensors(spec, asked) if asked["measure"] == "tensors" else _resident(spec, asked)
    sys.stdout.write(json.dumps({"bytes": found}) + "\n")
    if dist.is_initialized():
        dist.destroy_process_group()
    return 0


def train(spec: TrainSpec, asked: dict[str, Any], *, small: bool = False) -> None:
    """Train some steps as a worker does."""
    objective = objective_of(spec, asked["dataset"], small=small)
    team = Team.joined()
    strategy = STRATEGIES[spec.strategy.name](Setting(spec=spec, team=team, objective=objective, epoch_steps=STEPS))
    strategy.prepare(seeded(spec.seed, objective.architecture))
    rows = spec.batch_size // strategy.data_world if not small else spec.accumulate
    source = ROWS if not small else rows_of(objective, asked["dataset"], rows, small=True)
    tally = Tally(objective)
    for _ in range(STEPS):
        batch = tuple(tensor[torch.randperm(len(tensor))[:rows]] for tensor in source)
        tally.add(strategy.step(weighed(strategy, cut(batch, spec.accumulate), rows * strategy.data_world)))
        del batch
    strategy.close()


ROWS: tuple[torch.Tensor, ...] = ()


def _resident(spec: TrainSpec, asked: dict[str, Any]) -> int:
    _make_rows(spec, asked)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    train(spec, asked)
    return _status("VmHWM") - before


def _tensors(spec: TrainSpec, asked: dict[str, Any]) -> int:
    _make_rows(spec, asked)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        train(spec, asked)
    live = most = 0
    for event in found.profiler.kineto_results.events():  # pyright: ignore[reportOptionalMemberAccess]
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most


def _make_rows(spec: TrainSpec, asked: dict[str, Any]) -> None:
    global ROWS
    ROWS = rows_of(objective_of(spec, asked["dataset"]), asked["dataset"], 2 * spec.batch_size)


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    sys.exit(main())
