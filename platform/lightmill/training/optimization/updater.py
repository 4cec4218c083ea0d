"""From gradients to new weights: loss scaling, clipping, the optimizer, its schedule, averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from lightmill.records.specs import TrainSpec
from lightmill.records.training import Precision
from lightmill.training.optimization.optimizers import build_optimizer
from lightmill.training.optimization.schedules import learning_rate_factor

_DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
Norm = Callable[[torch.Tensor], torch.Tensor]


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass: in float32, or mixed with a shorter type."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


class Updater:
    """Owns the optimizer of the parameters that this worker updates.

    Attributes:
        optimizer: The optimizer; its state is part of a checkpoint.
        averaged: The exponential moving averages of trained parameters by name, empty without `ema`.
        step: The updates done in the run; set it to go on from a checkpoint.
        gradient_norm: The norm of the gradients before the last update, where they are clipped.
    """

    def __init__(
        self,
        named: dict[str, nn.Parameter],
        spec: TrainSpec,
        steps: int,
        epoch_steps: int,
        device: torch.device,
        norm_of_all: Norm | None = None,
    ) -> None:
        """Take over parameters.

        Args:
            named: The parameters by their names in the model.
            spec: The run's specification.
            steps: The updates of the whole run.
            epoch_steps: The updates of an epoch.
            device: Where they live.
            norm_of_all: Makes the norm of all parameters' gradients of that of these, where others have more of them.
        """
        self._named = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
        self._spec = spec
        self._steps = steps
        self._epoch_steps = epoch_steps
        self._norm_of_all = norm_of_all
        self._scaler = torch.amp.GradScaler(device.type) if spec.precision == "fp16" else None
        self.optimizer = build_optimizer(self._named.values(), spec, self._named)
        self.averaged = {name: p.detach().clone() for name, p in self._named.items()} if spec.ema else {}
        self.step = 0
        self.gradient_norm: torch.Tensor | None = None

    def zero(self) -> None:
        """Forget gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss."""
        (self._scaler.scale(loss) if self._scaler else loss).backward()

    def apply(self) -> None:
        """Update the parameters by their gradients, which the scaler may find infinite and leave out."""
        if self._scaler:
            self._scaler.unscale_(self.optimizer)
        if self._spec.l1:
            for parameter in self._named.values():
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach().sign(), alpha=self._spec.l1)
        if self._spec.clip_norm is not None:
            self._clip(self._spec.clip_norm)
        factor = learning_rate_factor(self._spec.schedule, self.step, self._steps, self._epoch_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self._spec.learning_rate * factor
        if self._scaler:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        else:
            self.optimizer.step()
        self.step += 1
        self._average()

    @property
    def scaling(self) -> dict[str, float]:
        """What the scale of the loss goes on from, empty where the loss is not scaled; set it to go on."""
        return self._scaler.state_dict() if self._scaler else {}

    @scaling.setter
    def scaling(self, state: dict[str, float]) -> None:
        if self._scaler and state:
            self._scaler.load_state_dict(state)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Put the averaged weights into the model while the block runs, if there are any."""
        if not self.averaged:
            yield
            return
        kept = {name: self._named[name].detach().clone() for name in self.averaged}
        self._put(self.averaged)
        try:
            yield
        finally:
            self._put(kept)

    def _put(self, values: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self._named[name].copy_(value)

    def _clip(self, most: float) -> None:
        gradients = [parameter.grad for parameter in self._named.values() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self._norm_of_all is not None:
            norm = self._norm_of_all(norm)
        torch.nn.utils.clip_grads_with_norm_(self._named.values(), most, norm)
        self.gradient_norm = norm

    def _average(self) -> None:
        if self._spec.ema is None:
            return
        with torch.no_grad():
            for name, value in self.averaged.items():
                value.lerp_(self._named[name].detach(), 1 - self._spec.ema)
