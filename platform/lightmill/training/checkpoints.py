"""Sealed checkpoints: a strategy's state goes straight into the vault, as a version of the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lightmill.records.assets import Provenance, RunCard
from lightmill.records.references import AssetKind, VersionId
from lightmill.registry import Content, OpenVersion, RegistryLocation
from lightmill.registry.tensors import load_tensors, plain_tensors
from lightmill.training.strategies import State

STATE_FILE = "state.json"
SEPARATOR = "/"
MODEL = "model"
AVERAGED = "averaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a run is: whole epochs done, and steps of the next."""

    epoch: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a run goes on from; `totals` are the sums of the epoch that was under way."""

    state: State
    position: Position
    totals: torch.Tensor | None


def seal_state(
    location: RegistryLocation,
    run: str,
    card: RunCard,
    state: State,
    position: Position,
    totals: torch.Tensor | None,
    provenance: Provenance,
) -> VersionId:
    """Publish a state as the next version of a run; see `Registry.commit` for the errors.

    The tensors of `state` may be the live ones: seal before the next step.
    """
    registry = location.open()
    draft = registry.begin(AssetKind.RUN, run)
    values = dict(_flat(state))
    tensors = draft.seal_tensors(plain_tensors({k: v for k, v in values.items() if isinstance(v, torch.Tensor)}))
    notes = {
        "epoch": position.epoch,
        "step": position.step,
        "totals": None if totals is None else totals.tolist(),
        "values": {name: value for name, value in values.items() if not isinstance(value, torch.Tensor)},
    }
    files = draft.seal_files({STATE_FILE: json.dumps(notes).encode()})
    content = Content(
        tensors=tensors.tensors,
        files=files.files,
        blobs=(*tensors.blobs, *files.blobs),
        run=card,
        provenance=provenance,
    )
    return registry.commit(draft, content).id


def load_state(version: OpenVersion, like: State) -> Loaded:
    """Read a run's version back, in the form of `like`; IntegrityError if its bytes are not what was written."""
    notes = json.loads(version.read_file(STATE_FILE))
    values: dict[str, Any] = {**load_tensors(version), **notes["values"]}
    totals = None if notes["totals"] is None else torch.tensor(notes["totals"], dtype=torch.float64)
    return Loaded(
        state=_nested(like, values, ""), position=Position(epoch=notes["epoch"], step=notes["step"]), totals=totals
    )


def load_model_state(version: OpenVersion) -> dict[str, torch.Tensor]:
    """Read only the model's tensors of a run's version, averaged ones where there are any."""
    found: dict[str, torch.Tensor] = {}
    for prefix in (MODEL, AVERAGED):
        names = [e.name for e in version.manifest.tensors if e.name.startswith(prefix + SEPARATOR)]
        found |= {name.removeprefix(prefix + SEPARATOR): value for name, value in load_tensors(version, names).items()}
    return found


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a nested dictionary holds by its path."""
    if not isinstance(value, dict):
        yield path, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{path}{SEPARATOR}{key}" if path else str(key))


def _nested(like: Any, values: dict[str, Any], path: str) -> Any:
    """Return values in the form of another nested dictionary."""
    if not isinstance(like, dict):
        return values[path]
    return {key: _nested(inner, values, f"{path}{SEPARATOR}{key}" if path else str(key)) for key, inner in like.items()}
