"""How long a step takes: a few real ones, on this machine, of one worker with the whole model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from lightmill.records.specs import TrainSpec
from lightmill.training.objectives import Batch, Objective
from lightmill.training.strategies import Part, Setting
from lightmill.training.strategies.whole import WholeModule
from lightmill.training.team import Team

PROBE_S = 5.0
PROBE_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Seconds of a part of so many rows, forward and backward, and of one update; how many steps were timed."""

    rows: int
    part_s: float
    update_s: float
    steps: int

    def step_s(self, rows: int) -> float:
        """Return the seconds of a step of so many rows."""
        return self.part_s * rows / self.rows + self.update_s


def probe(
    spec: TrainSpec, objective: Objective, build: Callable[[], nn.Module], sample: Batch, rows: int, threads: int
) -> Probe:
    """Time steps of one part, as they come, for `PROBE_S` seconds after the first; at least one, at most `PROBE_STEPS`.

    Rows of the sample are repeated up to `rows`. A model that is to be compiled is timed as it is written.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        setting = Setting(
            spec=spec.model_copy(update={"compile": False}), team=Team.alone(), objective=objective, epoch_steps=1
        )
        strategy = WholeModule(setting)
        strategy.prepare(build())
        batch = tuple(tensor[torch.arange(rows) % len(tensor)] for tensor in sample)
        part = Part(batch=batch, weight=lambda: 1.0)
        strategy.step([part])  # the first one makes the optimizer's state
        both, updates = _timed(strategy, part)
    finally:
        torch.set_num_threads(before)
    update = statistics.median(updates)
    return Probe(
        rows=rows, part_s=max(1e-9, statistics.median(both) - update), update_s=max(0.0, update), steps=len(both)
    )


def _timed(strategy: WholeModule, part: Part) -> tuple[list[float], list[float]]:
    """Return seconds of whole steps, and of the updates in them."""
    both, updates = [], []
    end = time.perf_counter() + PROBE_S
    while not both or (len(both) < PROBE_STEPS and time.perf_counter() < end):
        started = time.perf_counter()
        strategy.updater.zero()
        strategy.gradients([part])
        computed = time.perf_counter()
        strategy.updater.apply()
        both.append(time.perf_counter() - started)
        updates.append(time.perf_counter() - computed)
    return both, updates


def estimated_step_s(
    probe: Probe, *, rows: int, split: int, microbatches: int, stages: int, sent_bytes: int, link_gbits: float
) -> float:
    """Return the seconds of a step of several workers: computing, then sending what is not hidden behind it.

    Args:
        probe: What one worker measured.
        rows: The rows that a group of workers computes in a step.
        split: Workers that share the work of these rows evenly.
        microbatches: Of a pipeline; its stages idle (stages - 1) / (microbatches + stages - 1) of a step (Y. Huang et
            al., "GPipe", 2019).
        stages: Of the pipeline.
        sent_bytes: What the busiest process sends.
        link_gbits: How fast; nothing is taken to be hidden, so that the estimate is on the slow side.
    """
    computing = probe.step_s(rows) / split
    idle = (microbatches + stages - 1) / microbatches if stages > 1 else 1.0
    return computing * idle + sent_bytes * 8 / (link_gbits * 1e9)
