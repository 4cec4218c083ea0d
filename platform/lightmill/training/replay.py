"""Do a run again from what its model version says of it, and compare the weights. Nothing is registered."""

from __future__ import annotations

from pathlib import Path

import torch

from lightmill.errors import IntegrityError, RequestError
from lightmill.records.assets import Provenance
from lightmill.records.jobs import Progress
from lightmill.records.references import Reference, VersionId
from lightmill.records.replay import ReplayReport, differences
from lightmill.records.specs import TrainSpec, parse_spec
from lightmill.registry import OpenVersion, Registry, RegistryLocation
from lightmill.registry.tensors import safetensors_digest
from lightmill.registry.version import SAFETENSORS_FILE
from lightmill.training.checkpoints import load_model_state
from lightmill.training.fit import Prepared, Watchers, prepare, train_prepared
from lightmill.training.forgetting import forget_run
from lightmill.training.starting import trained_module


def replay(
    original: OpenVersion,
    run: str,
    runs_path: Path,
    registry: Registry,
    location: RegistryLocation,
    provenance: Provenance,
    watchers: Watchers,
    *,
    allow_python: bool = False,
) -> ReplayReport:
    """Train as `original` was trained, under the name `run`, and say whether its weights came out.

    The run's checkpoints are deleted at the end; no model version is made and no alias moves.

    Raises:
        NotFoundError: The dataset or the model that it began with is gone.
        RequestError: The version was not trained here, or the specification does not fit any more.
        JobError: Training failed.
    """
    spec = spec_of(original, registry)
    origin = original.manifest.provenance
    prepared = prepare(spec, registry, location, run, allow_python=allow_python)
    described = prepared.described(provenance, run).model_copy(update={"spec": spec.model_dump(mode="json")})
    trained = train_prepared(prepared, run, runs_path, registry, location, described, watchers)
    watchers.report(Progress(phase="compare", done=spec.epochs, total=spec.epochs, unit="epochs"))
    again = registry.open(trained.checkpoint)
    digest, found = weights_digest(original), safetensors_digest(_weights(prepared, again))
    now = described.model_copy(update={"hardware": again.manifest.provenance.hardware})
    done = again.manifest.run
    metrics: dict[str, tuple[float | None, float | None]] = {
        name: (original.manifest.model.metrics[name] if original.manifest.model else None, value)
        for name, value in (done.metrics if done else {}).items()
        if original.manifest.model and name in original.manifest.model.metrics and "per_second" not in name
    }
    forget_run(registry, run)
    return ReplayReport(
        run=origin.job or origin.run or original.id.name,
        version=original.id,
        dataset=prepared.dataset.id,
        deterministic=spec.deterministic,
        equal=digest == found,
        digest=digest,
        found=found,
        differences=differences(origin, now),
        metrics=metrics,
    )


def _weights(prepared: Prepared, checkpoint: OpenVersion) -> dict[str, torch.Tensor]:
    """Return the weights that a version made of a checkpoint has."""
    state, architecture = load_model_state(checkpoint), prepared.objective.architecture
    return trained_module(prepared.spec, architecture, state, allow_python=prepared.allow_python).state_dict()


def spec_of(original: OpenVersion, registry: Registry) -> TrainSpec:
    """Return the specification that a model version was trained by, with the very versions that it began with.

    Raises:
        NotFoundError: One of them is gone.
        RequestError: The version was not trained here.
        IntegrityError: A version has the number of the one that was used, and is another.
    """
    origin = original.manifest.provenance
    if origin.dataset is None or "architecture" not in origin.spec:
        raise RequestError(f"{original.id} was not trained here; there is no run to do again.")
    spec = parse_spec(TrainSpec, dict(origin.spec), f"The specification of {original.id}")
    spec = spec.model_copy(update={"dataset": _pinned(registry, origin.dataset), "alias": None})
    if spec.start is not None and origin.base is not None:
        spec = spec.model_copy(
            update={"start": spec.start.model_copy(update={"model": _pinned(registry, origin.base)})}
        )
    return spec


def _pinned(registry: Registry, id: VersionId) -> str:
    found = registry.resolve(id.kind, Reference(name=id.name, selector=str(id.seq)))
    if found.digest != id.digest:
        raise IntegrityError(
            f"{id.kind.capitalize()} {id} is not the version that the run used; its digest is another."
        )
    return f"{id.name}@{id.seq}"


def weights_digest(version: OpenVersion) -> str:
    """Return the SHA-256 of a model version's safetensors file, as its sealed manifest has it."""
    for entry in version.manifest.files:
        if entry.path == SAFETENSORS_FILE:
            return entry.sha256
    raise RequestError(f"{version.id} has no weights.")
