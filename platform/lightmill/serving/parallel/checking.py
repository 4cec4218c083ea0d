"""Whether a model can be divided as an endpoint asks, found out from its architecture alone: no weight is read."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lightmill.errors import RequestError
from lightmill.models.architectures import build_module
from lightmill.models.plans import Plan, plan_of
from lightmill.records.parallel import ParallelSpec
from lightmill.records.signature import Architecture

PLANNED = ("decoder", "encoder", "mlp", "tabular")
"""The architectures that have a plan, as messages name them."""


class _NoMemory(TorchFunctionMode):
    """Makes what `torch.empty` returns, as parameters are, tensors without memory; computed buffers stay real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        more = dict(kwargs or {})
        if func is torch.empty:
            more["device"] = "meta"
        return func(*args, **more)


def outline(architecture: Architecture) -> nn.Module:
    """Return a module whose parameters have shapes and no memory; see `build_module` for the errors."""
    with _NoMemory():
        return build_module(architecture)


def check_parallel(architecture: Architecture, spec: ParallelSpec) -> None:
    """Refuse what cannot be divided so.

    Raises:
        RequestError: The architecture has no plan, fewer layers than ranks, or sizes that do not divide by the ranks;
            the message names the field, its value and what to do.
    """
    if architecture.name not in PLANNED or architecture.entrypoint is not None:
        raise _unplanned(architecture, spec)
    plan = plan_of(outline(architecture))
    if plan is None:
        raise _unplanned(architecture, spec)
    check_plan(plan, architecture, spec)


def check_plan(plan: Plan, architecture: Architecture, spec: ParallelSpec) -> None:
    """Refuse a number of ranks that a plan does not have; see `check_parallel`."""
    if spec.kind == "pipeline":
        if spec.ranks > plan.layers:
            raise RequestError(
                f"parallel.ranks is {spec.ranks}, but architecture {architecture.name!r} has {plan.layers} layers to "
                f"give them; use at most {plan.layers} ranks."
            )
        return
    try:
        plan.check_tensor(spec.ranks, sequence=False)
    except RequestError as exc:
        raise RequestError(
            f"parallel.ranks is {spec.ranks}, by which the served model does not divide; use another number of ranks, "
            f"or kind: pipeline. {exc.message}"
        ) from exc


def _unplanned(architecture: Architecture, spec: ParallelSpec) -> RequestError:
    name = architecture.entrypoint or architecture.name
    return RequestError(
        f"parallel.kind is {spec.kind!r}, and architecture {name!r} has no plan of how to divide it; leave parallel "
        f"out, or serve one of {', '.join(PLANNED)}."
    )
