"""Sealed checkpoints: tensors go straight into the vault; what Ray keeps is a pointer to a run's version."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray.train
import torch
from ray.train import Checkpoint
from torch import nn

from lightmill.errors import IntegrityError
from lightmill.records.assets import Provenance, RunCard
from lightmill.records.references import AssetKind, VersionId
from lightmill.registry import Content, OpenVersion, RegistryLocation
from lightmill.registry.tensors import load_tensors, plain_tensors

POINTER_FILE = "version.json"
STATE_FILE = "state.json"
MODEL = "model."
OPTIMIZER = "optimizer."


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a run resumes from: the epochs done and the states of model and optimizer."""

    epoch: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    groups: list[dict[str, object]]


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module behind DistributedDataParallel."""
    inner = getattr(module, "module", module)
    return inner if isinstance(inner, nn.Module) else module


def take_snapshot(epoch: int, module: nn.Module, optimizer: torch.optim.Optimizer) -> Snapshot:
    """Return the present state; its tensors are the live ones, so seal them before the next step."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{key}": value
        for index, values in state["state"].items()
        for key, value in values.items()
        if isinstance(value, torch.Tensor)
    }
    return Snapshot(
        epoch=epoch,
        model=dict(unwrap(module).state_dict()),
        optimizer=tensors,
        groups=state["param_groups"],
    )


def restore(snapshot: Snapshot, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a snapshot's states into a module and its optimizer."""
    unwrap(module).load_state_dict(snapshot.model)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in snapshot.optimizer.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": snapshot.groups})


def seal_snapshot(
    location: RegistryLocation, run: str, card: RunCard, snapshot: Snapshot, provenance: Provenance
) -> VersionId:
    """Publish a snapshot as the next version of a run; see `Registry.commit` for the errors."""
    registry = location.open()
    draft = registry.begin(AssetKind.RUN, run)
    named = {MODEL + name: value for name, value in snapshot.model.items()}
    named |= {OPTIMIZER + name: value for name, value in snapshot.optimizer.items()}
    tensors = draft.seal_tensors(plain_tensors(named))
    state = json.dumps({"epoch": snapshot.epoch, "groups": snapshot.groups}).encode()
    files = draft.seal_files({STATE_FILE: state})
    content = Content(
        tensors=tensors.tensors,
        files=files.files,
        blobs=(*tensors.blobs, *files.blobs),
        run=card,
        provenance=provenance,
    )
    return registry.commit(draft, content).id


def load_snapshot(version: OpenVersion) -> Snapshot:
    """Read a run's version back; IntegrityError if its bytes are not what was written."""
    state = json.loads(version.read_file(STATE_FILE))
    tensors = load_tensors(version)

    def below(prefix: str) -> dict[str, torch.Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    return Snapshot(epoch=int(state["epoch"]), model=below(MODEL), optimizer=below(OPTIMIZER), groups=state["groups"])


def load_model_state(version: OpenVersion) -> dict[str, torch.Tensor]:
    """Read only the model's tensors of a run's version."""
    names = [entry.name for entry in version.manifest.tensors if entry.name.startswith(MODEL)]
    return {name.removeprefix(MODEL): value for name, value in load_tensors(version, names).items()}


def report_sealed(metrics: dict[str, float], run_folder: Path, seal: Callable[[], VersionId]) -> None:
    """Report metrics to Ray Train with a checkpoint that `seal` publishes; call it on rank 0 only."""

    def upload(_: Checkpoint, name: str) -> Checkpoint:
        folder = run_folder / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / POINTER_FILE).write_text(seal().model_dump_json())
        return Checkpoint.from_directory(str(folder))

    with tempfile.TemporaryDirectory() as empty:
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(empty), checkpoint_upload_fn=upload)


def read_pointer(checkpoint: Checkpoint) -> VersionId:
    """Return the run's version that a checkpoint of Ray points at.

    Raises:
        IntegrityError: The pointer is missing or damaged.
    """
    path = Path(checkpoint.path) / POINTER_FILE
    try:
        return VersionId.model_validate_json(path.read_text())
    except (OSError, ValueError) as exc:
        raise IntegrityError(f"The checkpoint pointer {path} is missing or damaged.") from exc
