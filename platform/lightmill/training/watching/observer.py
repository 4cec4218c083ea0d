"""Measures the steps of one worker, for next to nothing: a few readings of clocks a step, the rest every few steps.

What is measured:

* data wait: the time in the feed's iterator, from asking for a batch to having it.
* communication wait: the part of a step, without that, in which the training thread used no processor. It waits then
  for messages of other workers, or, where more threads run than there are processors, for a processor. What overlaps
  with computation is no waiting. A step on a CUDA device is computed apart from the thread, so nothing is said there.
* memory: on a CUDA device the most that torch held at once, else the resident memory of the process.

Validation and checkpoints are between steps and in none of the times.
"""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence

import torch

from lightmill.training.objectives import Batch, Step
from lightmill.training.optimization import Updater
from lightmill.training.strategies import Strategy
from lightmill.training.watching.parts import TOLD_MAX, StepPart, Tell
from lightmill.training.watching.profiler import StepProfiler

SEND_S = 1.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
Clock = Callable[[], float]


class Observer:
    """Measures one worker's steps and tells them; use as `for batch in observer.feeding(...)`, then `stepped`."""

    def __init__(
        self, strategy: Strategy, tell: Tell | None, *, clock: Clock = time.perf_counter, cpu: Clock = time.thread_time
    ) -> None:
        """Measure the steps of a strategy; without `tell` only for the epochs' metrics."""
        setting = strategy.setting
        watch = setting.spec.watch
        self._strategy = strategy
        self._team = setting.team
        self._total = setting.steps
        self._epoch_steps = setting.epoch_steps
        self._tokens = setting.objective.name == "causal_lm"
        told = tell is not None and self._team.rank < TOLD_MAX
        self._tell = tell if told else None
        self._every = watch.every_steps if told else 0
        profiled = watch.profile_steps if told and self._team.leads else 0
        self._profiler = StepProfiler(profiled, self._team.device) if profiled else None
        self._apart = self._team.device.type == "cuda"
        self._memory = Memory(self._team.device)
        self._clock, self._cpu = clock, cpu
        self._asked = self._given = self._given_cpu = 0.0
        self._steps, self._losses = 0, list[Step]()
        self._times, self._before_period, self._before_epoch = _Times(), _Times(), _Times()
        self._open: _Open | None = None
        self._waiting: list[StepPart] = []
        self._sent = clock()

    def feeding(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches, timing how long each takes to come."""
        while True:
            self._asked = self._clock()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._given = self._clock()
            if not self._apart:
                self._given_cpu = self._cpu()
            yield batch

    def stepped(self, epoch: int, step: int, rows: int, counted: Sequence[Step]) -> None:
        """Count a step of an epoch, both from 0; `rows` are those of all workers."""
        now = self._clock()
        blocked = 0.0 if self._apart else max(0.0, now - self._given - (self._cpu() - self._given_cpu))
        times = self._times
        times.seconds += now - self._asked
        times.data += self._given - self._asked
        times.blocked += blocked
        times.rows += rows
        if self._profiler is not None:
            self._profiler.stepped()
        if not self._every:
            return
        self._steps += 1
        self._losses += counted
        done = epoch * self._epoch_steps + step + 1
        if done % self._every == 0 or done == self._total:
            self._close_period(epoch, done)

    def epoch_metrics(self) -> dict[str, float]:
        """Return what this worker's steps took since the last call."""
        times = self._times.since(self._before_epoch)
        self._before_epoch = self._times.since(_Times())
        return {"rows_per_second": times.rows / times.at_least} | self._shares(times)

    def finish(self) -> None:
        """Tell what is left, and wait a moment until it has arrived."""
        if self._tell is None:
            return
        self._resolve()
        if self._profiler is not None and (traced := self._profiler.finish()) is not None:
            self._tell.traced(traced)
        self._send()
        self._tell.flush()

    def _shares(self, times: _Times) -> dict[str, float]:
        found = {"data_wait_share": times.data / times.at_least}
        if not self._apart:
            found["communication_wait_share"] = times.blocked / times.at_least
        return found | {"memory_bytes": float(self._memory.bytes())}

    def _close_period(self, epoch: int, done: int) -> None:
        self._resolve()
        times = self._times.since(self._before_period)
        self._open = _Open(epoch + 1, done, self._steps, times, self._losses, self._shown())
        self._steps, self._losses, self._before_period = 0, [], self._times.since(_Times())
        if not self._apart:
            self._resolve()
        if self._clock() - self._sent >= SEND_S:
            self._send()

    def _shown(self) -> dict[str, torch.Tensor | float]:
        """Return the learning rate, and the norm of gradients where it was computed for clipping."""
        updater = getattr(self._strategy, "updater", None)
        if not self._team.leads or not isinstance(updater, Updater):
            return {}
        found: dict[str, torch.Tensor | float] = {"learning_rate": updater.learning_rate}
        norm = updater.gradient_norm
        if type(norm) is torch.Tensor:  # a sharded one would have to be gathered from all workers
            found["gradient_norm"] = norm
        return found

    def _resolve(self) -> None:
        """Read the values of the period before: on a CUDA device they are computed by now, and nobody waits."""
        found, self._open = self._open, None
        if found is None:
            return
        times = found.times
        self._waiting.append(
            StepPart(
                rank=self._team.rank,
                world=min(self._team.world, TOLD_MAX),
                data_rank=self._strategy.data_rank,
                data_world=self._strategy.data_world,
                epoch=found.epoch,
                step=found.step,
                total=self._total,
                steps=found.steps,
                seconds=times.at_least,
                rows=times.rows,
                loss_sum=_finite(found.loss_sum),
                count=float(found.count) if math.isfinite(float(found.loss_sum)) else 0.0,
                tokens=self._tokens,
                data_wait_s=times.data,
                blocked_s=None if self._apart else times.blocked,
                memory_bytes=self._memory.bytes(),
                shown={name: float(value) for name, value in found.shown.items() if math.isfinite(float(value))},
            )
        )

    def _send(self) -> None:
        if self._tell is not None and self._waiting:
            self._tell.parts(self._waiting)
        if self._tell is not None and self._profiler is not None and (traced := self._profiler.take()) is not None:
            self._tell.traced(traced)
        self._waiting, self._sent = [], self._clock()


class _Times:
    """Sums of seconds and rows over some steps."""

    __slots__ = ("blocked", "data", "rows", "seconds")

    def __init__(self, seconds: float = 0.0, data: float = 0.0, blocked: float = 0.0, rows: int = 0) -> None:
        self.seconds, self.data, self.blocked, self.rows = seconds, data, blocked, rows

    def since(self, before: _Times) -> _Times:
        return _Times(
            self.seconds - before.seconds,
            self.data - before.data,
            self.blocked - before.blocked,
            self.rows - before.rows,
        )

    @property
    def at_least(self) -> float:
        return max(self.seconds, 1e-9)


class _Open:
    """A period that has ended and whose values are not read yet."""

    __slots__ = ("count", "epoch", "loss_sum", "shown", "step", "steps", "times")

    def __init__(
        self,
        epoch: int,
        step: int,
        steps: int,
        times: _Times,
        losses: Sequence[Step],
        shown: dict[str, torch.Tensor | float],
    ) -> None:
        self.epoch, self.step, self.steps, self.times, self.shown = epoch, step, steps, times, shown
        self.loss_sum: torch.Tensor | float = 0.0
        self.count: torch.Tensor | float = 0.0
        if losses and all(one.loss.device.type == "cpu" for one in losses):  # ten numbers: each operator takes longer
            counts = [float(one.count) for one in losses]
            self.count = sum(counts)
            self.loss_sum = sum(one.loss.item() * count for one, count in zip(losses, counts, strict=True))
        elif losses:
            values = torch.stack([one.loss.detach() for one in losses]).double()
            counts = [one.count for one in losses]
            known = all(isinstance(count, int) for count in counts)
            weights = torch.tensor(counts) if known else torch.stack([torch.as_tensor(count) for count in counts])
            weights = weights.to(values.device, torch.float64)
            self.loss_sum, self.count = values @ weights, weights.sum()


def _finite(value: torch.Tensor | float) -> float:
    found = float(value)
    return found if math.isfinite(found) else 0.0


class Memory:
    """The most memory that torch held on a CUDA device, else what this process holds now."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._file = -1
        if device.type != "cuda":  # one that stays open: opening it takes six times as long as reading it
            self._file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._file)

    def bytes(self) -> int:
        """Return it in bytes."""
        if self._file < 0:
            return int(torch.cuda.max_memory_allocated(self._device))
        return int(os.pread(self._file, 128, 0).split()[1]) * PAGE_BYTES


__all__ = ["Memory", "Observer"]
