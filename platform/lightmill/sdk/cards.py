"""The model card: what a version is, says and comes from, as one page of Markdown.

Its parts follow Mitchell and others, Model Cards for Model Reporting (2019).
"""

from __future__ import annotations

from collections.abc import Iterator

from lightmill.records.annotations import Evaluation
from lightmill.records.assets import Lineage, VersionDetail, VersionSummary

_SAID_NOTHING = "Nothing was written here."


def render_card(detail: VersionDetail, lineage: Lineage) -> str:
    """Return the card of a version; text that people wrote stands in it as they wrote it."""
    return "\n".join(_lines(detail, lineage)).rstrip() + "\n"


def _lines(detail: VersionDetail, lineage: Lineage) -> Iterator[str]:
    version, notes = detail.version, detail.notes
    yield from (f"# {version.id}", "", f"Stage: {notes.stage}. Published: {version.created}.")
    if notes.tags:
        yield "Tags: " + ", ".join(f"`{key}={value}`" for key, value in notes.tags.items()) + "."
    for title, text in (
        ("Description", notes.text.description),
        ("Intended use", notes.text.intended_use),
        ("Limitations", notes.text.limitations),
    ):
        yield from ("", f"## {title}", "", text.strip() or _SAID_NOTHING)
    yield from ("", "## Metrics", "", "| metric | value |", "|---|---|")
    yield from (f"| {name} | {value:.6g} |" for name, value in sorted(version.metrics.items()))
    yield from ("", "## Evaluations", "")
    yield from (_evaluation(evaluation) for evaluation in notes.evaluations)
    if not notes.evaluations:
        yield "None yet."
    yield from ("", "## Model", "")
    yield from _model(version)
    yield from ("", "## Lineage", "")
    yield from (f"- {line}" for line in _lineage(lineage))


def _evaluation(evaluation: Evaluation) -> str:
    measured = ", ".join(f"{name} {value:.6g}" for name, value in sorted(evaluation.metrics.items()))
    return f"- {evaluation.dataset} ({evaluation.split}): {measured}; by {evaluation.by}, {evaluation.created}"


def _model(version: VersionSummary) -> Iterator[str]:
    architecture, classes = version.card.get("architecture"), version.card.get("classes")
    if isinstance(architecture, dict):
        arguments = ", ".join(f"{name}={value}" for name, value in architecture.get("arguments", {}).items())
        yield f"- Architecture: {architecture.get('name')} ({arguments})"
    if isinstance(classes, list):
        yield f"- Classes: {', '.join(str(name) for name in classes)}"
    yield f"- Size: {version.size_bytes} bytes"
    yield f"- Digest: `{version.id.digest}`"


def _lineage(lineage: Lineage) -> Iterator[str]:
    origin = lineage.version.provenance
    if origin.dataset:
        yield f"Dataset: {origin.dataset} (`{origin.dataset.digest}`)"
    yield from (f"Source: {source.name} (SHA-256 `{source.sha256}`)" for source in lineage.sources)
    if origin.base:
        yield f"Base model: {origin.base} (`{origin.base.digest}`)"
    if origin.run:
        yield f"Run: {origin.run}"
    if origin.code.commit:
        yield f"Code: {origin.code.commit}{' (with changes)' if origin.code.dirty else ''}"
    if origin.packages:
        yield "Packages: " + ", ".join(f"{name} {number}" for name, number in origin.packages.items())
    if lineage.endpoints:
        yield f"Endpoints: {', '.join(lineage.endpoints)}"
    yield from (f"Child: {child.id.kind} {child.id}" for child in lineage.children)
