"""The README.md of an export: what a version's card and provenance say, for people."""

from __future__ import annotations

from lightmill.models.exchange.signing import PUBLIC_KEY_FILE, SIGNATURE_FILE
from lightmill.records.assets import Manifest
from lightmill.records.references import VersionId
from lightmill.records.signature import TensorSpec

README_FILE = "README.md"
OWN_README_FILE = "LIGHTMILL.md"


def readme(id: VersionId, manifest: Manifest, *, how: str, signed: bool) -> str:
    """Return the text.

    Args:
        id: The version.
        manifest: What it holds.
        how: One sentence or more about the form of this export.
        signed: Whether the folder carries a signature.
    """
    parts = [
        f"# {id.name}, version {id.seq}\n\n{how}",
        "These files are plain: whoever has this folder has the model. The registry's copy stays encrypted.",
        _card(manifest),
        _lineage(id, manifest),
        _verification(signed),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _card(manifest: Manifest) -> str:
    card = manifest.model
    if card is None:
        return f"## Model\n\nTensors without a card: {len(manifest.tensors)} of them."
    arguments = ", ".join(f"{key} = {_cell(value)}" for key, value in card.architecture.arguments.items())
    rows = [
        ("architecture", card.architecture.name + (f" ({arguments})" if arguments else "")),
        *((f"input `{spec.name}`", _shape(spec)) for spec in card.signature.inputs),
        *((f"output `{spec.name}`", _shape(spec)) for spec in card.signature.outputs),
    ]
    if card.classes:
        rows.append(("classes", ", ".join(card.classes)))
    if card.preprocessing.steps:
        rows.append(("preprocessing", ", then ".join(step.step for step in card.preprocessing.steps)))
    text = "## Model\n\n" + _table(("", ""), rows)
    if card.metrics:
        text += "\n\n## Metrics\n\n" + _table(("metric", "value"), [(k, f"{v:.6g}") for k, v in card.metrics.items()])
    return text


def _lineage(id: VersionId, manifest: Manifest) -> str:
    origin = manifest.provenance
    rows = [
        ("version", str(id)),
        ("digest of its commit record", id.digest),
        ("created", manifest.created),
        ("dataset", f"{origin.dataset} ({origin.dataset.digest})" if origin.dataset else ""),
        ("run", origin.run or ""),
        ("code", f"{origin.code.commit}{' (with changes)' if origin.code.dirty else ''}" if origin.code.commit else ""),
        ("packages", ", ".join(f"{name} {number}" for name, number in origin.packages.items())),
    ]
    imported = origin.spec.get("import")
    if isinstance(imported, dict):
        files = imported.get("files")
        rows.append(("imported from", f"{imported.get('source')} ({imported.get('format')})"))
        if isinstance(files, list):
            rows += [(f"source `{file['name']}`", f"SHA-256 {file['sha256']}") for file in files]
    return "## Lineage\n\n" + _table(("", ""), [row for row in rows if row[1]])


def _verification(signed: bool) -> str:
    if not signed:
        return "## Verification\n\nThis folder was exported without a signature."
    return (
        "## Verification\n\n"
        f"`{SIGNATURE_FILE}` is an OpenSSF model signature over every other file:\n\n"
        f"    model_signing verify key . --signature {SIGNATURE_FILE} --public_key KEY.pem --no-ignore-git-paths\n\n"
        f"`{PUBLIC_KEY_FILE}` is the public key. A key that came with the files proves nothing about who made them: "
        "compare it with one that you got another way."
    )


def _shape(spec: TensorSpec) -> str:
    return f"{spec.datatype} [{', '.join('any' if size < 0 else str(size) for size in spec.shape)}]"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "\n".join(f"| {_cell(left)} | {_cell(right)} |" for left, right in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
