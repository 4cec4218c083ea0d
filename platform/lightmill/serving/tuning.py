"""Makes a module compute as an endpoint's `tuning` says, before it is warmed up."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

import torch
from torch import nn

from lightmill.errors import RequestError
from lightmill.records.tuned import TuningSpec

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def set_threads(threads: int, tuning: TuningSpec) -> None:
    """Set how many threads this process computes with."""
    torch.set_num_threads(threads)
    if tuning.interop_threads is not None:
        with suppress(RuntimeError):  # torch lets it be set once a process; a replica sets it once
            torch.set_num_interop_threads(tuning.interop_threads)


def tuned(module: nn.Module, tuning: TuningSpec) -> nn.Module:
    """Return a module that computes as asked. It compiles when it is called first, for any number of rows.

    Raises:
        RequestError: `channels_last` is asked for, and the model has no convolution over pictures.
    """
    if tuning.channels_last:
        if not any(isinstance(one, _CONVOLUTIONS) for one in module.modules()):
            raise RequestError(
                "tuning.channels_last is true, and this model has no convolution over pictures; leave it out."
            )
        module = module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's stub lacks it
    return cast(Any, _Compiled(module)) if tuning.compile else module


class _Compiled(nn.Module):
    """A module whose code is generated when it is called first."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        from torch._dynamo.exc import TorchDynamoException  # takes a second, and only who compiles needs it

        self._refused = TorchDynamoException
        self._run = torch.compile(module, dynamic=True)
        self._module = module

    def forward(self, *inputs: Any) -> Any:
        """Return what the module returns.

        Raises:
            RequestError: No code can be generated for it here.
        """
        try:
            return self._run(*inputs)
        except self._refused as exc:
            text = str(exc).strip().splitlines() or [type(exc).__name__]
            raise RequestError(
                f"tuning.compile is true, and torch cannot compile this model here: {text[0][:200]}. Leave it out, or "
                "install a C++ compiler on every node."
            ) from exc
