"""What the catalog keeps of a version: searchable, and nothing that a key protects."""

from __future__ import annotations

from lightmill.records.assets import Manifest, VersionSummary
from lightmill.records.references import VersionId


def summarize(id: VersionId, mid: str, manifest: Manifest) -> VersionSummary:
    """Return the catalog's row for a version: card, metrics, provenance and size; no keys, pieces or source text."""
    card = manifest.dataset or manifest.model or manifest.run
    metrics = dict(manifest.model.metrics) if manifest.model else {}
    if manifest.run:
        metrics = dict(manifest.run.metrics)
    size = sum(blob.size for blob in manifest.blobs) + sum(f.size for f in manifest.files if f.object)
    return VersionSummary(
        id=id,
        mid=mid,
        created=manifest.created,
        size_bytes=size,
        metrics=metrics,
        provenance=manifest.provenance.listed(),
        card=card.model_dump(mode="json") if card else {},
    )
