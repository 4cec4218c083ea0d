"""From a run's best checkpoint to a version of the model, with everything that serving needs."""

from __future__ import annotations

import torch

from lightmill.datasets.columns import LABEL
from lightmill.datasets.reading import feature_rows, read_rows
from lightmill.errors import IntegrityError
from lightmill.models.answers import signature_of
from lightmill.models.architectures import build_module, parameter_count
from lightmill.records.annotations import Evaluated, Evaluation
from lightmill.records.assets import ModelCard, Provenance, VersionSummary
from lightmill.records.base import now_iso
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.registry import Content, OpenVersion, Registry, RegistryLocation
from lightmill.registry.parents import newest_version
from lightmill.registry.tensors import seal_model
from lightmill.training.checkpoints import load_model_state


def register_best(
    spec: TrainSpec,
    architecture: Architecture,
    dataset: OpenVersion,
    registry: Registry,
    location: RegistryLocation,
    checkpoint: VersionId,
    provenance: Provenance,
) -> VersionSummary:
    """Publish a checkpoint's weights as the next version of `spec.model`, and move `spec.alias` to it.

    What was measured on the test split is added as an evaluation, which a promotion may rely on.
    """
    best = registry.open(checkpoint)
    card, run = dataset.manifest.dataset, best.manifest.run
    if card is None or run is None:
        raise IntegrityError(f"{checkpoint} or {dataset.id} carries no card; it was published by something else.")
    state = load_model_state(best)
    module = build_module(architecture)
    module.load_state_dict(state)
    metrics = dict(run.metrics) | {
        "best_epoch": float(run.epoch),
        "parameters": float(parameter_count(module)),
        "test_accuracy": test_accuracy(module, dataset, location),
    }
    model = ModelCard(
        architecture=architecture,
        preprocessing=card.preprocessing,
        signature=signature_of(card.features, len(card.classes), card.preparation),
        classes=card.classes,
        metrics=metrics,
        preparation=card.preparation,
    )
    summary = publish_model(registry, spec.model, state, model, provenance)
    held_out = Evaluation(
        dataset=dataset.id,
        split="test",
        metrics={"test_accuracy": metrics["test_accuracy"]},
        created=now_iso(),
        by=f"run {provenance.run or checkpoint.name}",
    )
    registry.annotate(summary.id, Evaluated(evaluation=held_out))
    if spec.alias:
        registry.set_alias(AssetKind.MODEL, spec.model, spec.alias, summary.id.seq)
    return summary


def publish_model(
    registry: Registry, name: str, state: dict[str, torch.Tensor], card: ModelCard, provenance: Provenance
) -> VersionSummary:
    """Publish weights and a card as the next version of model `name`; see `Registry.commit` for the errors."""
    draft = registry.begin(AssetKind.MODEL, name)
    sealed = seal_model(draft, state, newest_version(registry, AssetKind.MODEL, name))
    content = Content(
        files=(sealed.file,),
        tensors=sealed.tensors.tensors,
        safetensors_header=sealed.header,
        blobs=sealed.tensors.blobs,
        model=card,
        provenance=provenance,
    )
    return registry.commit(draft, content)


def test_accuracy(module: torch.nn.Module, dataset: OpenVersion, location: RegistryLocation) -> float:
    """Return the share of the test split that the module gets right."""
    rows = read_rows(dataset, location, "test")
    label = torch.from_numpy(rows.column(LABEL).to_numpy().copy())
    with torch.inference_mode():
        found = module.eval()(torch.from_numpy(feature_rows(rows))).argmax(dim=1)
    return float((found == label).double().mean())
