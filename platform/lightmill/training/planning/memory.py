"""What a step of one worker takes of memory, derived from the code that trains and not from a table of models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from lightmill.records.specs import TrainSpec
from lightmill.training.objectives import Batch, Objective, Step
from lightmill.training.planning.tracing import Recorder, Trace
from lightmill.training.strategies import Part, Setting
from lightmill.training.strategies.whole import WholeModule
from lightmill.training.team import Team

STEPS = 2
PARTS = 2  # more take no more memory: gradients are there from the first on


def follow_step(
    spec: TrainSpec,
    objective: Objective,
    build: Callable[[], nn.Module],
    sample: Batch,
    rows: int,
    *,
    real: bool = False,
) -> Trace:
    """Follow two steps of a worker that has the whole model.

    Args:
        spec: How the step is computed: optimizer, precision, parts. A compiled model is followed as it is written;
            compiling it rarely makes it take more.
        objective: What is minimized.
        build: Builds the model.
        sample: A batch of at least one row, whose shapes and types count.
        rows: The rows of this worker in a step, in all parts.
        real: Compute with numbers, which takes the memory of the step; for models whose code looks at values.

    Raises:
        Exception: The model's code looks at values, and `real` is not set; whatever its code raises.
    """
    parts = min(PARTS, spec.accumulate)
    setting = Setting(spec=_followed(spec), team=Team.alone(), objective=objective, epoch_steps=1)
    sample = tuple(tensor[:1].clone() for tensor in sample)
    recorder = Recorder()
    with nullcontext() if real else FakeTensorMode(), recorder:
        strategy = WholeModule(setting)
        module = build()
        module.to = lambda *_, **__: module  # it is where it stays, and fake parameters cannot be moved
        strategy.prepare(module)
        recorder.watch(module)
        named = dict(module.named_parameters())
        recorder.mark("parameter", named.items())
        recorder.mark("buffer", module.named_buffers())
        kept = 0
        for _ in range(STEPS):
            batches = [_like(sample, -(-rows // spec.accumulate), real=real) for _ in range(parts)]
            recorder.mark("batch", (("", tensor) for tensor in tree_leaves(batches)))
            steps = strategy.step([Part(batch=batch, weight=lambda: 1.0 / parts) for batch in batches])
            kept = _kept_bytes(steps)
            recorder.mark("gradient", ((name, parameter.grad) for name, parameter in named.items()))
            recorder.mark("optimizer", _states(strategy.updater.optimizer, named))
            recorder.mark("averaged", strategy.updater.averaged.items())
            del batches, steps
        return recorder.trace(kept * spec.accumulate // parts)


def _followed(spec: TrainSpec) -> TrainSpec:
    """Return a specification that computes the same sizes without looking at values, as a scaler of losses does."""
    precision = "bf16" if spec.precision == "fp16" else spec.precision
    return spec.model_copy(update={"precision": precision, "compile": False, "deterministic": False})


def _like(sample: Batch, rows: int, *, real: bool) -> Batch:
    """Return a batch of so many rows."""
    if real:
        return tuple(tensor[:1].expand(rows, *tensor.shape[1:]).clone() for tensor in sample)
    return tuple(torch.empty((rows, *tensor.shape[1:]), dtype=tensor.dtype) for tensor in sample)


def _states(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter]) -> Iterator[tuple[str, torch.Tensor]]:
    names = {id(parameter): name for name, parameter in named.items()}
    for parameter, state in optimizer.state.items():
        for leaf in tree_leaves(state):
            if isinstance(leaf, torch.Tensor):
                yield names.get(id(parameter), ""), leaf


def _kept_bytes(steps: Sequence[Step]) -> int:
    return sum(tensor.untyped_storage().nbytes() for step in steps for tensor in step.kept)


__all__ = ["follow_step"]
