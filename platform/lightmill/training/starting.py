"""What a run begins with: fresh weights or a version's, which of them are frozen, and adapters of low rank."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from lightmill.errors import RequestError
from lightmill.models.architectures import build_module, seeded
from lightmill.models.huggingface import PREFIX
from lightmill.records.references import AssetKind, parse_reference
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.records.training import LoraSpec, StartSpec
from lightmill.registry import OpenVersion, Registry
from lightmill.registry.tensors import load_tensors

_SPLITTING = ("tensor", "pipeline", "context", "hybrid")


def start_version(spec: TrainSpec, registry: Registry) -> OpenVersion | None:
    """Return the version that a run starts from; NotFoundError if there is none of this name."""
    if spec.start is None:
        return None
    return registry.open(registry.resolve(AssetKind.MODEL, parse_reference(spec.start.model, default="champion")))


def check_start(spec: TrainSpec, module: nn.Module, base: OpenVersion | None) -> None:
    """Refuse a start that does not fit, before any worker starts; `module` may be on the meta device.

    Raises:
        RequestError: A pattern matches nothing, a tensor is missing or has another shape, nothing is left to train, or
            adapters cannot be had.
    """
    start = spec.start
    if start is None or base is None:
        return
    parameters = [name for name, _ in module.named_parameters()]
    _check_patterns("start.freeze", start.freeze, parameters)
    _check_patterns("start.skip", start.skip, list(module.state_dict()))
    _names(start, module, base)
    if parameters and all(_matches(name, start.freeze) for name in parameters):
        raise RequestError(f"start.freeze {list(start.freeze)} leaves nothing to train; freeze less.")
    if start.lora is not None:
        if spec.strategy.name in _SPLITTING:
            raise RequestError(
                f"start.lora cannot be trained by `strategy: {spec.strategy.name}`, which splits the layers; use ddp."
            )
        _targets(start.lora, module)
        _peft()


def first_module(
    spec: TrainSpec, architecture: Architecture, base: OpenVersion | None = None, allow_python: bool = False
) -> nn.Module:
    """Return the module that a run begins with, the same in every worker: its seed and its base decide it.

    Raises:
        RequestError: It cannot be built, or the base does not fit; see `check_start`.
        IntegrityError: Stored bytes of the base are not what was written.
    """
    module = seeded(spec.seed, architecture, allow_python=allow_python)
    start = spec.start
    if start is None:
        return module
    if base is not None:
        names = _names(start, module, base)
        _load(module, names, load_tensors(base, sorted(set(names.values()))))
    for name, parameter in module.named_parameters():
        if _matches(name, start.freeze):
            parameter.requires_grad_(False)
    if start.lora is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            add_adapters(start.lora, module, keep=start.skip)
    return module


def trained_module(
    spec: TrainSpec, architecture: Architecture, state: Mapping[str, torch.Tensor], *, allow_python: bool = False
) -> nn.Module:
    """Return the module of a checkpoint's tensors, with adapters merged: its names are those of the architecture."""
    module = build_module(architecture, allow_python=allow_python)
    lora = spec.start.lora if spec.start else None
    if lora is not None and spec.start is not None:
        add_adapters(lora, module, keep=spec.start.skip)
    module.load_state_dict(state)
    if lora is not None:
        merge_adapters(module)
    return module.requires_grad_(True)


def add_adapters(lora: LoraSpec, module: nn.Module, keep: Iterable[str] = ()) -> None:
    """Put adapters on linear layers; only they are trained then, and parameters that match a pattern of `keep`.

    Raises:
        RequestError: No linear layer matches, or the package peft is not installed.
    """
    peft = _peft()
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=_targets(lora, module)
    )
    skipped = [parameter for name, parameter in module.named_parameters() if _matches(name, tuple(keep))]
    peft.inject_adapter_in_model(config, module)
    for parameter in skipped:
        parameter.requires_grad_(True)


def merge_adapters(module: nn.Module) -> None:
    """Add what adapters learnt to the layers that they are on, and take them off."""
    layers = importlib.import_module("peft.tuners.lora").LoraLayer
    found = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, layers)]
    for name, layer in found:
        layer.merge()  # pyright: ignore[reportCallIssue]
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, layer.get_base_layer())  # pyright: ignore[reportCallIssue]


def _load(module: nn.Module, names: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> None:
    state = module.state_dict()
    with torch.no_grad():
        for name, stored in names.items():
            state[name].copy_(tensors[stored])


def _names(start: StartSpec, module: nn.Module, base: OpenVersion) -> dict[str, str]:
    """Return the name in the base of each tensor that is taken over.

    The tensors of an imported model of transformers have no prefix, and those that it ties to others are left out.
    """
    shapes = {entry.name: entry.shape for entry in base.manifest.tensors}
    prefix = PREFIX if not any(name.startswith(PREFIX) for name in shapes) else ""
    state = module.state_dict(keep_vars=True)
    found: dict[str, str] = {}
    for name, value in state.items():
        if _matches(name, start.skip):
            continue
        stored = name if name in shapes else name.removeprefix(prefix)
        if stored not in shapes:
            if any(
                other is value for key, other in state.items() if key != name and key.removeprefix(prefix) in shapes
            ):
                continue
            raise RequestError(
                f"start.model {base.id} has no tensor {name!r}; put it into start.skip to draw it anew, or correct "
                "`architecture`."
            )
        if tuple(value.shape) != shapes[stored]:
            raise RequestError(
                f"Tensor {name!r} of start.model {base.id} is {list(shapes[stored])}, but the architecture has "
                f"{list(value.shape)}; put it into start.skip to draw it anew, or correct `architecture`."
            )
        found[name] = stored
    if not found:
        raise RequestError(f"start.skip {list(start.skip)} leaves nothing of {base.id}; leave `start` out instead.")
    return found


def _targets(lora: LoraSpec, module: nn.Module) -> list[str]:
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and name]
    _check_patterns("start.lora.targets", lora.targets, linear)
    return [name for name in linear if _matches(name, lora.targets)]


def _check_patterns(field: str, patterns: Iterable[str], names: list[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise RequestError(f"{field}: {pattern!r} matches nothing; there are {shown or 'none'}.")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as exc:
        raise RequestError(
            f"start.lora needs the package peft ({exc}). Install it with: pip install 'lightmill[lora]'"
        ) from exc
