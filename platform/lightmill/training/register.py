"""From a run's best checkpoint to a version of the model, with everything that serving needs."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lightmill.datasets.reading import read_rows
from lightmill.errors import IntegrityError
from lightmill.models.architectures import parameter_count
from lightmill.records.annotations import Evaluated, Evaluation
from lightmill.records.assets import ModelCard, Provenance, VersionSummary
from lightmill.records.base import now_iso
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.specs import TrainSpec
from lightmill.registry import Content, OpenVersion, Registry, RegistryLocation
from lightmill.registry.parents import newest_version
from lightmill.registry.tensors import seal_model
from lightmill.training.checkpoints import load_model_state
from lightmill.training.feed import whole_batch
from lightmill.training.loop import evaluate
from lightmill.training.objectives import Objective
from lightmill.training.rows import Rows
from lightmill.training.starting import trained_module


def register_best(
    spec: TrainSpec,
    objective: Objective,
    rows: Rows,
    dataset: OpenVersion,
    registry: Registry,
    location: RegistryLocation,
    checkpoint: VersionId,
    provenance: Provenance,
    files: Mapping[str, bytes] | None = None,
    *,
    allow_python: bool = False,
) -> VersionSummary:
    """Publish a checkpoint's weights as the next version of `spec.model`, and move `spec.alias` to it.

    `files` are sealed with it, by their names. What was measured on the test split is added as an evaluation, which a
    promotion may rely on.
    """
    best = registry.open(checkpoint)
    card, run = dataset.manifest.dataset, best.manifest.run
    if card is None or run is None:
        raise IntegrityError(f"{checkpoint} or {dataset.id} carries no card; it was published by something else.")
    module = trained_module(spec, objective.architecture, load_model_state(best), allow_python=allow_python)
    state = module.state_dict()
    tested = test_metrics(module, objective, rows, dataset, location, spec.batch_size)
    metrics = dict(run.metrics) | {
        "best_epoch": float(run.epoch),
        "parameters": float(parameter_count(module)),
        **tested,
    }
    model = ModelCard(
        architecture=objective.architecture,
        preprocessing=card.preprocessing,
        signature=objective.signature(),
        classes=objective.classes,
        metrics=metrics,
        preparation=None if objective.reads_tokens else card.preparation,
        tokens=card.tokens if objective.reads_tokens else None,
    )
    origin = provenance.model_copy(update={"hardware": best.manifest.provenance.hardware})
    summary = publish_model(registry, spec.model, state, model, origin, files)
    held_out = Evaluation(
        dataset=dataset.id,
        split="test",
        metrics=tested,
        created=now_iso(),
        by=f"run {provenance.run or checkpoint.name}",
    )
    registry.annotate(summary.id, Evaluated(evaluation=held_out))
    if spec.alias:
        registry.set_alias(AssetKind.MODEL, spec.model, spec.alias, summary.id.seq)
    return summary


def publish_model(
    registry: Registry,
    name: str,
    state: dict[str, torch.Tensor],
    card: ModelCard,
    provenance: Provenance,
    files: Mapping[str, bytes] | None = None,
) -> VersionSummary:
    """Publish weights, a card and other files as the next version of model `name`; errors as `Registry.commit`."""
    draft = registry.begin(AssetKind.MODEL, name)
    sealed = seal_model(draft, state, newest_version(registry, AssetKind.MODEL, name))
    others = draft.seal_files(files or {})
    content = Content(
        files=(sealed.file, *others.files),
        tensors=sealed.tensors.tensors,
        safetensors_header=sealed.header,
        blobs=(*sealed.tensors.blobs, *others.blobs),
        model=card,
        provenance=provenance,
    )
    return registry.commit(draft, content)


def test_metrics(
    module: torch.nn.Module,
    objective: Objective,
    rows: Rows,
    dataset: OpenVersion,
    location: RegistryLocation,
    batch_rows: int,
) -> dict[str, float]:
    """Return what the objective measures on the test split, such as `test_accuracy`."""
    data = whole_batch(read_rows(dataset, location, "test"), rows, torch.device("cpu"))
    batches = zip(*(tensor.split(objective.rows_together(batch_rows)) for tensor in data), strict=True)
    found = evaluate(module, batches, objective)
    return {f"test_{name}": found[name] for name in objective.held_out}
