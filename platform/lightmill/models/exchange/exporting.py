"""From a version to a plain folder: the deliberate way out of the vault, signed and with its bill of materials."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

from lightmill.errors import NotFoundError
from lightmill.models.exchange.blobs import WholeBlobs
from lightmill.models.exchange.bom import BOM_FILE, bill_of_materials
from lightmill.models.exchange.cards import CARD_KEY, CONFIG_FILE
from lightmill.models.exchange.folder import INDEX_FILE, OWN_FILES, SAFETENSORS
from lightmill.models.exchange.readme import OWN_README_FILE, README_FILE, readme
from lightmill.models.exchange.signing import (
    PUBLIC_KEY_FILE,
    SIGNATURE_FILE,
    check_installed,
    fingerprint_of,
    public_key_of,
    sign_folder,
)
from lightmill.models.exchange.target import ExportedFile, Target, check_free, target_folder
from lightmill.records.assets import FileEntry, Manifest
from lightmill.records.base import Record
from lightmill.records.jobs import Progress
from lightmill.records.references import VersionId
from lightmill.registry import OpenVersion, Registry

RUN_FILES = frozenset({"metrics.parquet", "trace.json.gz"})
WARNING = "The exported files are not encrypted: whoever can read the folder has the model."
Report = Callable[[Progress], None]


class ExportFormat(StrEnum):
    """What an export looks like."""

    HUGGINGFACE = "huggingface"
    SAFETENSORS = "safetensors"
    ONNX = "onnx"


class Exported(Record):
    """What an export wrote. `difference` is the largest seen between ONNX and torch."""

    version: VersionId
    folder: str
    format: ExportFormat
    files: tuple[ExportedFile, ...]
    key_fingerprint: str | None
    warning: str = WARNING
    difference: float | None = None


_HOW = {
    ExportFormat.HUGGINGFACE: "Exported by Lightmill in the Hugging Face layout.",
    ExportFormat.SAFETENSORS: "Exported by Lightmill: the weights as safetensors.",
    ExportFormat.ONNX: (
        "Exported by Lightmill as ONNX. The graph takes features in the units of the source and gives "
        "probabilities and a label: preparation is folded in."
    ),
}


def export_version(
    registry: Registry,
    id: VersionId,
    folder: Path,
    form: ExportFormat,
    *,
    signing_key: Path | None,
    report: Report = lambda _: None,
) -> Exported:
    """Write a version as plain files into `folder`, which appears whole or not at all.

    Every byte is verified as it is written. Weights have the very bytes of their import or publication.

    Args:
        registry: Where the version lies.
        id: Which version.
        folder: Must not exist, or be empty.
        form: What to write.
        signing_key: The private key (PEM, P-256) for `model.sig`; None for an export without a signature.
        report: Told how far it is, in bytes.

    Raises:
        ConflictError: The folder holds something.
        RequestError: The version has not what the format needs, or an optional package is missing.
        IntegrityError: Stored bytes are not what was written; nothing appears.
        UnavailableError: The disk or the store refuses; nothing appears.
    """
    check_free(folder)
    if signing_key:
        check_installed()
    version = registry.open(id)
    difference = None
    with target_folder(folder) as target:
        if form == ExportFormat.ONNX:
            difference = _write_onnx(version, target)
        else:
            _write_files(registry, version, target, form, report)
        _write_texts(version, target, form, signing_key)
        public_key = _sign(target, signing_key)
    return Exported(
        version=id,
        folder=str(folder),
        format=form,
        files=tuple(target.files),
        key_fingerprint=fingerprint_of(public_key) if public_key else None,
        difference=difference,
    )


def _write_files(registry: Registry, version: OpenVersion, target: Target, form: ExportFormat, report: Report) -> None:
    wanted = _wanted(version.manifest, form)
    if not any(entry.path.endswith(SAFETENSORS) for entry in wanted):
        raise NotFoundError(f"{version.id} holds no {SAFETENSORS} file; it cannot be exported as {form}.")
    blobs = WholeBlobs(registry, version)
    total = sum(entry.size for entry in wanted)
    done = 0

    def runs(entry: FileEntry) -> Iterator[memoryview]:
        nonlocal done
        for run in blobs.file(entry):
            yield run
            done += run.nbytes
            report(Progress(phase="export", done=done, total=total, unit="bytes"))

    for entry in wanted:
        target.write(entry.path, runs(entry))
    if form == ExportFormat.HUGGINGFACE and version.manifest.model and all(e.path != CONFIG_FILE for e in wanted):
        target.write(CONFIG_FILE, [_own_config(version.manifest)])


def _wanted(manifest: Manifest, form: ExportFormat) -> list[FileEntry]:
    """Return the files to write; names that an export makes itself are its own, what a run measured stays."""
    found = [entry for entry in manifest.files if entry.object is None]
    if form == ExportFormat.SAFETENSORS:
        return [entry for entry in found if entry.path.endswith(SAFETENSORS) or entry.path == INDEX_FILE]
    return [entry for entry in found if entry.path not in OWN_FILES | RUN_FILES]


def _own_config(manifest: Manifest) -> bytes:
    """Return the configuration of one of Lightmill's own architectures; an import reads the card out of it."""
    assert manifest.model is not None  # noqa: S101 - checked by the caller
    config = {"architectures": [manifest.model.architecture.name], CARD_KEY: manifest.model.model_dump(mode="json")}
    return json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"


def _write_onnx(version: OpenVersion, target: Target) -> float:
    from lightmill.models.exchange.onnx_file import ONNX_FILE, write_onnx

    difference = write_onnx(version, target.folder)
    target.adopt(ONNX_FILE)
    target.write(CONFIG_FILE, [_own_config(version.manifest)])
    return difference


def _write_texts(version: OpenVersion, target: Target, form: ExportFormat, signing_key: Path | None) -> None:
    """Add the model card, unless the model brought its own, and the bill of materials over everything so far."""
    text = readme(version.id, version.manifest, how=_HOW[form], signed=signing_key is not None)
    taken = any(file.path == README_FILE for file in target.files)
    target.write(OWN_README_FILE if taken else README_FILE, [text.encode()])
    if signing_key:
        target.write(PUBLIC_KEY_FILE, [public_key_of(signing_key)])
    bom = bill_of_materials(version.id, version.manifest, list(target.files), form)
    target.write(BOM_FILE, [bom])


def _sign(target: Target, signing_key: Path | None) -> bytes | None:
    if signing_key is None:
        return None
    sign_folder(target.folder, signing_key)
    target.adopt(SIGNATURE_FILE)
    return public_key_of(signing_key)
