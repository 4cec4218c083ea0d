"""How a module computes: activations that are computed again, and compiled code. Parameters keep their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightmill.errors import RequestError
from lightmill.records.specs import TrainSpec


def made_ready(module: nn.Module, spec: TrainSpec, device: torch.device) -> nn.Module:
    """Return the module, changed in place to compute as the specification asks.

    Raises:
        RequestError: It has no blocks whose activations could be computed again, or there is no compiler here.
    """
    if spec.checkpoint_activations:
        checkpoint_blocks(module)
    if spec.compile:
        check_compiler(device)
        module.compile()
    return module


def checkpoint_blocks(module: nn.Module) -> None:
    """Keep only what goes into each block, and compute the rest again in the backward pass.

    T. Chen et al., "Training deep nets with sublinear memory cost" (2016). Blocks are the layers of every list of
    modules of one kind.

    Raises:
        RequestError: There are none.
    """
    for block in repeated_blocks(module):
        block.forward = _again(block.forward)


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """Return the layers of the module's lists of modules of one kind that have parameters.

    Raises:
        RequestError: There are none.
    """
    found: list[nn.Module] = []
    for name, layers in module.named_modules():
        inside = any(name.startswith(f"{other}.") for other in _lists(module))
        if isinstance(layers, nn.ModuleList) and not inside and len({type(layer) for layer in layers}) == 1:
            found += [layer for layer in layers if not isinstance(layer, nn.Embedding)]
    if not found:
        raise RequestError(
            "checkpoint_activations needs a model of blocks, such as resnet, encoder or decoder; set it to false."
        )
    return found


def check_compiler(device: torch.device) -> None:
    """Refuse `compile` where there is no compiler.

    Raises:
        RequestError: There is none.
    """
    if device.type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as exc:  # of torch, one class or another
        raise RequestError(
            f"`compile: true` needs a C++ compiler on every node, and there is none here ({exc}); install g++, or set "
            "`compile: false`."
        ) from exc


def _lists(module: nn.Module) -> list[str]:
    return [name for name, one in module.named_modules() if isinstance(one, nn.ModuleList)]


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    def computed(*given: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*given)
        return checkpoint(forward, *given, use_reentrant=False)

    return computed
