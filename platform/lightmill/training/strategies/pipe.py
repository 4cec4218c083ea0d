"""One worker's stage of a pipeline: microbatches go through in a schedule of `torch.distributed.pipelining`.

Y. Huang et al., "GPipe: Efficient training of giant neural networks using pipeline parallelism" (2019); D. Narayanan
et al., "PipeDream: Generalized pipeline parallelism for DNN training" (2019), for one forward, one backward.

All microbatches have equally many rows, since buffers do; missing ones are filled with rows that do not count. All
workers of a pipeline have the rows, so that only what layers return travels: the loss is that of the objective, of the
rows that count, on the last stage. The parts of a step go through one after another without a pause.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.pipelining.schedules import PipelineScheduleSingle

from lightmill.training.objectives import Batch, Objective, Step
from lightmill.training.optimization.updater import computing_in
from lightmill.training.strategies.layout import Layout, Place
from lightmill.training.strategies.port import Part, Setting


class Pipe:
    """Runs a stage; all workers of the pipeline call its methods in the same order with the same rows.

    Attributes:
        extras: The names of what every stage takes beside its first input.
    """

    def __init__(
        self,
        module: nn.Module,
        extras: tuple[str, ...],
        setting: Setting,
        layout: Layout,
        place: Place,
        group: dist.ProcessGroup,
    ) -> None:
        self.extras = extras
        self._module = module
        self._setting = setting
        self._layout = layout
        self._number = place.pipeline
        self._group = group
        self._runs: dict[tuple[bool, int], _Run] = {}

    def train(self, parts: Sequence[Part]) -> list[Step]:
        """Compute gradients of the parts of a step; what is counted, on the last stage."""
        objective = self._setting.objective
        pieces, weights = [], []
        for part in parts:
            some = microbatches(part.batch, self._layout.microbatches)
            counts = [float(objective.count(piece)) for piece in some]
            total = max(1.0, sum(counts))
            pieces += some
            weights += [(part, count / total) for count in counts]
        return self._run(pieces, training=True)(pieces, weights)

    def infer(self, batch: Batch) -> list[Step]:
        """Compute the loss of a batch; what is counted, on the last stage."""
        pieces = microbatches(batch, self._layout.microbatches)
        return self._run(pieces, training=False)(pieces, None)

    def _run(self, pieces: list[Batch], *, training: bool) -> _Run:
        """Return the run of so many microbatches; it is made anew when they have more rows than ever before."""
        key = (training, len(pieces))
        rows = max(1, *(len(piece[0]) for piece in pieces))
        known = self._runs.get(key)
        if known is None or known.rows < rows:
            known = self._runs[key] = _Run(self, rows, len(pieces), training=training)
        return known

    def schedule(self, run: _Run, count: int, *, training: bool) -> PipelineScheduleSingle:
        """Return a schedule of this stage."""
        stage = PipelineStage(
            self._module, self._number, self._layout.pipeline, self._setting.team.device, group=self._group
        )
        kind = Schedule1F1B if training and self._layout.schedule == "1f1b" else ScheduleGPipe
        return kind(stage, count, loss_fn=run.loss, scale_grads=False)

    @property
    def setting(self) -> Setting:
        """What the strategy works on."""
        return self._setting

    @property
    def first(self) -> bool:
        """Whether this stage takes the rows."""
        return self._number == 0

    @property
    def last(self) -> bool:
        """Whether this stage returns the loss."""
        return self._number == self._layout.pipeline - 1


class _Run:
    """A schedule for microbatches of `rows` rows."""

    def __init__(self, pipe: Pipe, rows: int, count: int, *, training: bool) -> None:
        self.rows = rows
        self._pipe = pipe
        self._training = training
        self._schedule = pipe.schedule(self, count, training=training)
        self._steps: list[Step | None] = []
        self._pieces: list[Batch] = []
        self._weights: list[tuple[Part, float]] | None = None

    def __call__(self, pieces: list[Batch], weights: list[tuple[Part, float]] | None) -> list[Step]:
        """Run all microbatches."""
        setting = self._pipe.setting
        self._pieces, self._weights = pieces, weights
        self._steps = [None] * len(pieces)
        inputs = [inputs_of(setting.objective, piece) for piece in pieces]
        joined = [torch.cat([padded(one[place], self.rows) for one in inputs]) for place in range(len(inputs[0]))]
        extras: dict[str, Any] = dict(zip(self._pipe.extras, joined[1:], strict=False))
        target = torch.arange(len(pieces)) if self._pipe.last else None
        run = self._schedule.step if self._training else self._schedule.eval
        with computing_in(setting.spec.precision, setting.team.device):
            run(*(joined[:1] if self._pipe.first else []), target=target, return_outputs=False, **extras)
        if weights:
            for part, _ in weights:
                part.weight()  # every worker waits for the message, wherever the loss is
        return [step for step in self._steps if step is not None]

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the weighted loss of a microbatch, whose number is the target."""
        number = int(target)
        piece = self._pieces[number]
        step = self._pipe.setting.objective.step(_Given(output[: len(piece[0])]), piece)
        self._steps[number] = Step(loss=step.loss.detach(), count=step.count, kept=step.kept)
        if self._weights is None:
            return step.loss
        part, share = self._weights[number]
        return step.loss * (part.weight() * share)


class _Given(nn.Module):
    """Stands for a module whose output is known already."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self._output = output

    def forward(self, *_: Any) -> torch.Tensor:
        """Return it."""
        return self._output


class _AskedError(Exception):
    """Carries what an objective gives its module."""

    def __init__(self, inputs: tuple[torch.Tensor | None, ...]) -> None:
        super().__init__()
        self.inputs = inputs


class _Asking(nn.Module):
    def forward(self, *inputs: torch.Tensor | None) -> torch.Tensor:
        raise _AskedError(inputs)


def inputs_of(objective: Objective, batch: Batch) -> tuple[torch.Tensor, ...]:
    """Return what an objective gives the module for a batch."""
    try:
        objective.step(_Asking(), batch)
    except _AskedError as asked:
        return tuple(found for found in asked.inputs if found is not None)
    raise AssertionError(f"objective {objective.name} did not call the module")


def microbatches(batch: Batch, count: int) -> list[Batch]:
    """Return a batch in so many pieces, as even as can be."""
    return [tuple(found) for found in zip(*(tensor.tensor_split(count) for tensor in batch), strict=True)]


def padded(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Return `count` rows, those missing of zeros."""
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])]) if len(rows) < count else rows
