"""From a path to a version: found, checked, sealed tensor by tensor, committed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightmill.errors import LightmillError, NotFoundError, RequestError
from lightmill.models.exchange.cards import CONFIG_FILE, TRANSFORMERS, transformers_card
from lightmill.models.exchange.extras import versions_of
from lightmill.models.exchange.folder import INDEX_FILE, file_source, folder_source
from lightmill.models.exchange.headers import DTYPE_BYTES
from lightmill.models.exchange.source import Source, parse_document
from lightmill.models.exchange.streams import SealedTensorFile, seal_tensor_file
from lightmill.records.assets import ModelCard, Provenance, VersionSummary
from lightmill.records.base import Record
from lightmill.records.jobs import Progress
from lightmill.records.references import AssetKind, check_alias, check_name
from lightmill.registry import Content, Draft, Registry
from lightmill.registry.version import SAFETENSORS_FILE
from lightmill.vault import encode_base64

GGUF = ".gguf"
PACKAGES = ("lightmill", "torch", "safetensors", "transformers", "tokenizers", "gguf")
Report = Callable[[Progress], None]
logger = logging.getLogger("lightmill.exchange")


class ImportedFile(Record):
    """A file that was read: its base name, its size and the digest of its bytes."""

    name: str
    size_bytes: int
    sha256: str


class Imported(Record):
    """What an import did. `left_out` names files that were found and are not part of the version."""

    version: VersionSummary
    format: str
    tensors: int
    files: tuple[ImportedFile, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def find_source(path: Path, *, convert_pickle: bool) -> Source:
    """Look at what lies at a path, and check it, before anything is written.

    Raises:
        NotFoundError: There is nothing, or no weights.
        RequestError: It is refused, or an optional package is missing; the message says which.
    """
    if path.is_dir():
        if not any(path.glob("*.safetensors")) and len(found := sorted(path.glob(f"*{GGUF}"))) == 1:
            path = found[0]
        else:
            return folder_source(path, convert_pickle=convert_pickle)
    if not path.exists():
        raise NotFoundError(f"There is nothing at {path} to import.")
    if path.suffix.lower() == GGUF:
        from lightmill.models.exchange.gguf import gguf_source

        return gguf_source(path)
    return file_source(path, convert_pickle=convert_pickle)


def import_model(
    registry: Registry,
    path: Path,
    name: str,
    *,
    alias: str | None = None,
    card: ModelCard | None = None,
    convert_pickle: bool = False,
    report: Report = lambda _: None,
) -> Imported:
    """Publish what lies at `path` as the next version of model `name`.

    Memory holds one group of tensors at a time (64 MiB, or the largest tensor); every byte of a safetensors
    file is read once. GGUF is loaded whole.

    Args:
        registry: Where to publish.
        path: A folder in the Hugging Face layout, or a .safetensors or .gguf file.
        name: The model's name.
        alias: An alias to move to the new version.
        card: The model's card, where the source has none.
        convert_pickle: Whether weights in a pickle are converted, in a locked-down process.
        report: Told how far it is, in bytes.

    Raises:
        NotFoundError: There is nothing to import.
        RequestError: The source, the name or the alias is refused; the message says why.
        IntegrityError: The store was rolled back; nothing is written on top of it.
        UnavailableError: The store cannot be written.
    """
    check_name(name, "model")
    if alias:
        check_alias(alias)
    source = find_source(path, convert_pickle=convert_pickle)
    draft = registry.begin(AssetKind.MODEL, name)
    try:
        done = _seal(draft, source, report)
        content, files = _content(draft, source, done, card)
        summary = registry.commit(draft, content)
    except BaseException:
        with suppress(LightmillError):
            draft.release()
        raise
    if alias:
        registry.set_alias(AssetKind.MODEL, name, alias, summary.id.seq)
    return Imported(
        version=summary,
        format=source.format,
        tensors=sum(len(part.tensors) for part in done),
        files=files,
        left_out=source.left_out,
        notes=source.notes,
    )


def _seal(draft: Draft, source: Source, report: Report) -> list[SealedTensorFile]:
    total = sum(weights.size_bytes for weights in source.weights)
    sealed = 0

    def advance(count: int) -> None:
        nonlocal sealed
        sealed += count
        report(Progress(phase="seal", done=sealed, total=max(total, sealed), unit="bytes"))

    done = []
    for weights in source.weights:
        with weights.open() as file:
            done.append(seal_tensor_file(draft, file, advance))
    names = [tensor.name for part in done for tensor in part.tensors]
    if len(set(names)) != len(names):
        raise RequestError("Two files of weights hold a tensor of the same name; they are not one model.")
    return done


def _content(
    draft: Draft, source: Source, done: list[SealedTensorFile], card: ModelCard | None
) -> tuple[Content, tuple[ImportedFile, ...]]:
    texts = dict(source.files)
    if len(done) > 1:
        texts.setdefault(INDEX_FILE, _index_of(done))
    small = draft.seal_files(texts)
    files = _read_files(source, done)
    lone = next((part for part in done if part.entry.path == SAFETENSORS_FILE), None)
    content = Content(
        files=(*(part.entry for part in done), *small.files),
        tensors=tuple(tensor for part in done for tensor in part.tensors),
        safetensors_header=encode_base64(lone.header) if lone else "",
        blobs=(*(blob for part in done for blob in part.blobs), *small.blobs),
        model=card or _final_card(source, done),
        provenance=_provenance(source, files),
    )
    return content, files


def _final_card(source: Source, done: list[SealedTensorFile]) -> ModelCard | None:
    """Return the card, with what only a conversion brought to light: dtype and number of parameters."""
    if source.card is None or source.card.metrics or source.card.architecture.name != TRANSFORMERS:
        return source.card
    tensors = [tensor for part in done for tensor in part.tensors]
    elements = sum(sum(piece.length for piece in tensor.pieces) // DTYPE_BYTES[tensor.dtype] for tensor in tensors)
    config = parse_document(source.files[CONFIG_FILE], CONFIG_FILE)
    return transformers_card(config, [tensor.dtype for tensor in tensors], {"parameters": float(elements)})


def _index_of(done: list[SealedTensorFile]) -> bytes:
    """Return the index of shards that had none of their own kind, as those that were converted."""
    weight_map = {tensor.name: part.entry.path for part in done for tensor in part.tensors}
    total = sum(piece.length for part in done for tensor in part.tensors for piece in tensor.pieces)
    index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return json.dumps(index, indent=2).encode() + b"\n"


def _read_files(source: Source, done: list[SealedTensorFile]) -> tuple[ImportedFile, ...]:
    found = [
        ImportedFile(name=weights.source, size_bytes=weights.size_bytes, sha256=weights.sha256 or part.entry.sha256)
        for weights, part in zip(source.weights, done, strict=True)
    ]
    if source.format == "huggingface":
        found += [
            ImportedFile(name=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for path, data in source.files.items()
        ]
    return tuple(found)


def _provenance(source: Source, files: tuple[ImportedFile, ...]) -> Provenance:
    """Return where the version comes from: names and digests, and no path of this machine."""
    spec = {
        "source": source.name,
        "format": source.format,
        "files": [file.model_dump(mode="json") for file in files],
        "left_out": list(source.left_out),
    }
    return Provenance(packages=versions_of(PACKAGES), spec={"import": spec})
