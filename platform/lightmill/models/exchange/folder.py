"""A Hugging Face folder, or a single file of weights, as a source to import."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lightmill.errors import NotFoundError, RequestError
from lightmill.models.exchange.bom import BOM_FILE
from lightmill.models.exchange.cards import CARD_KEY, CONFIG_FILE, transformers_card
from lightmill.models.exchange.headers import DTYPE_BYTES, Header
from lightmill.models.exchange.pickles import REFUSAL, pickled_weights
from lightmill.models.exchange.readme import OWN_README_FILE
from lightmill.models.exchange.signing import PUBLIC_KEY_FILE, SIGNATURE_FILE
from lightmill.models.exchange.source import (
    FILES_MAX_BYTES,
    INDEX_MAX_BYTES,
    PICKLE_SUFFIXES,
    Source,
    Weights,
    limit_of,
    list_files,
    open_regular,
    parse_document,
    read_limited,
    safe_path,
    size_of,
)
from lightmill.models.exchange.streams import TensorFile, read_header, read_tensors
from lightmill.records.assets import ModelCard
from lightmill.registry.version import SAFETENSORS_FILE

INDEX_FILE = "model.safetensors.index.json"
PICKLE_INDEX_FILE = "pytorch_model.bin.index.json"
SAFETENSORS = ".safetensors"
OWN_FILES = frozenset({BOM_FILE, OWN_README_FILE, PUBLIC_KEY_FILE, SIGNATURE_FILE})
"""What an export adds to a folder; an import leaves it out, since it speaks of another version."""

_SUFFIXES = frozenset({".json", ".jinja", ".md", ".model", ".tiktoken", ".txt"})
_PLAIN_NAMES = frozenset({"LICENSE", "LICENCE", "NOTICE", "COPYING"})


def folder_source(folder: Path, *, convert_pickle: bool) -> Source:
    """Return what a folder holds: safetensors (whole or in shards), configuration, tokenizer, texts.

    Raises:
        RequestError: Something in it is refused; the message says what and why.
        NotFoundError: It holds no weights.
    """
    found = list_files(folder)
    index, names = _weights_of(folder, found)
    if names:
        return _safetensors_folder(folder, found, index, names)
    pickles = [path for path in found if Path(path).suffix.lower() in PICKLE_SUFFIXES and "/" not in path]
    if not pickles:
        raise NotFoundError(f"{folder.name} holds no weights: no {SAFETENSORS} file, no {INDEX_FILE}.")
    if not convert_pickle:
        raise RequestError(f"{folder.name} holds its weights as pickles ({', '.join(pickles[:4])}). {REFUSAL}")
    files = _read_texts(folder, found)
    files.pop(INDEX_FILE, None)
    chosen = _shards(files.pop(PICKLE_INDEX_FILE, None), pickles)
    return Source(
        name=folder.name,
        format="huggingface",
        weights=pickled_weights(folder, chosen),
        files=files,
        card=_card_of(files, [], {}),
        left_out=_rest(found, files, chosen),
    )


def _safetensors_folder(folder: Path, found: dict[str, int], index: dict[str, str] | None, names: list[str]) -> Source:
    files = _read_texts(folder, found)
    headers = {name: _header_of(folder / name) for name in names}
    _check_index(index, headers)
    slots = [slot for header in headers.values() for slot in header.slots]
    elements = sum(slot.nbytes // DTYPE_BYTES[slot.dtype] for slot in slots)
    lone = index is None
    return Source(
        name=folder.name,
        format="huggingface",
        weights=tuple(
            _plain_weights(folder / name, SAFETENSORS_FILE if lone else name, header)
            for name, header in headers.items()
        ),
        files=files,
        card=_card_of(files, [slot.dtype for slot in slots], {"parameters": float(elements)}),
        left_out=_rest(found, files, names),
    )


def _rest(found: Iterable[str], files: Iterable[str], weights: Iterable[str]) -> tuple[str, ...]:
    """Return what was found and is not imported, but for what an export adds."""
    rest = set(found) - set(files) - set(weights) - OWN_FILES
    return tuple(sorted(path.encode(errors="replace").decode() for path in rest))


def file_source(path: Path, *, convert_pickle: bool) -> Source:
    """Return a single file of weights: safetensors, or with `convert_pickle` a pickle.

    Raises:
        RequestError: It is refused; the message says why.
        NotFoundError: There is no such file.
    """
    suffix = path.suffix.lower()
    if suffix == SAFETENSORS:
        weights = _plain_weights(path, SAFETENSORS_FILE, _header_of(path))
        return Source(name=path.name, format="safetensors", weights=(weights,))
    if suffix not in PICKLE_SUFFIXES:
        raise RequestError(
            f"{path.name} cannot be imported: give a folder in the Hugging Face layout, a {SAFETENSORS} file or a "
            ".gguf file."
        )
    if not convert_pickle:
        raise RequestError(f"{path.name} is a pickle. {REFUSAL}")
    return Source(name=path.name, format="pickle", weights=pickled_weights(path.parent, [path.name]))


def _weights_of(folder: Path, found: Iterable[str]) -> tuple[dict[str, str] | None, list[str]]:
    """Return the index of a sharded model (tensor to file), and the files of weights in order."""
    top = sorted(path for path in found if path.endswith(SAFETENSORS) and "/" not in path)
    if INDEX_FILE in found and top:
        index = _weight_map(read_limited(folder / INDEX_FILE, INDEX_MAX_BYTES), INDEX_FILE)
        names = sorted(set(index.values()))
        for name in names:
            if safe_path(name) not in top:
                raise RequestError(f"{INDEX_FILE} names the shard {name!r}, which is no file of the folder.")
        return index, names
    if SAFETENSORS_FILE in top:
        return None, [SAFETENSORS_FILE]
    if len(top) > 1:
        raise RequestError(
            f"{folder.name} holds {len(top)} {SAFETENSORS} files ({', '.join(top[:4])}) but no {INDEX_FILE}; "
            "import one of them by its own path."
        )
    return None, top


def _weight_map(data: bytes, name: str) -> dict[str, str]:
    found = parse_document(data, name).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(value, str) for value in found.values()):
        raise RequestError(f"{name} has no 'weight_map' of tensors to files.")
    return found


def _check_index(index: dict[str, str] | None, headers: dict[str, Header]) -> None:
    """Check that every tensor lies in the shard that the index says, once, and that none is missing."""
    held = [(slot.name, name) for name, header in headers.items() for slot in header.slots]
    if len(dict(held)) != len(held):
        raise RequestError("Two shards hold a tensor of the same name; the folder mixes two models.")
    if index is not None and dict(held) != index:
        differ = sorted({*dict(held).items()} ^ {*index.items()})
        raise RequestError(f"{INDEX_FILE} and the shards differ, at tensor {differ[0][0]!r} of {differ[0][1]!r}.")


def _shards(index: bytes | None, pickles: list[str]) -> list[str]:
    """Return the pickles that make up one model."""
    if index is not None:
        names = sorted(set(_weight_map(index, PICKLE_INDEX_FILE).values()))
        for name in names:
            if safe_path(name) not in pickles:
                raise RequestError(f"{PICKLE_INDEX_FILE} names the shard {name!r}, which is no file of the folder.")
        return names
    if "pytorch_model.bin" in pickles:
        return ["pytorch_model.bin"]
    if len(pickles) > 1:
        raise RequestError(f"There are {len(pickles)} pickles ({', '.join(pickles[:4])}); import one by its own path.")
    return pickles


def _read_texts(folder: Path, found: dict[str, int]) -> dict[str, bytes]:
    """Read configuration, tokenizer and texts; every JSON is checked, every size limited."""
    files: dict[str, bytes] = {}
    total = 0
    for path in sorted(found):
        name = path.rsplit("/", 1)[-1]
        if Path(name).suffix.lower() not in _SUFFIXES and name not in _PLAIN_NAMES:
            continue
        if path in OWN_FILES:
            continue
        data = read_limited(folder / safe_path(path), limit_of(name))
        total += len(data)
        if total > FILES_MAX_BYTES:
            raise RequestError(f"The files beside the weights have more than {FILES_MAX_BYTES} bytes in all.")
        if name.endswith(".json"):
            parse_document(data, path)
        files[path] = data
    return files


def _card_of(files: dict[str, bytes], dtypes: list[str], metrics: dict[str, float]) -> ModelCard | None:
    if CONFIG_FILE not in files:
        return None
    config = parse_document(files[CONFIG_FILE], CONFIG_FILE)
    if CARD_KEY in config:
        return parse_card(config[CARD_KEY], CONFIG_FILE)
    return transformers_card(config, dtypes, metrics)


def parse_card(value: Any, name: str) -> ModelCard:
    """Return the model card that a document holds.

    Raises:
        RequestError: It is none.
    """
    try:
        return ModelCard.model_validate_json(json.dumps(value))
    except (ValidationError, ValueError) as exc:
        problem = exc.errors()[0]["msg"] if isinstance(exc, ValidationError) else str(exc)
        raise RequestError(f"{name} holds no model card: {problem}.") from exc


def _header_of(path: Path) -> Header:
    with open_regular(path) as file:
        header = read_header(file, size_of(file), path.name)
    if not header.slots:
        raise RequestError(f"{path.name} holds no tensors.")
    return header


def _plain_weights(path: Path, target: str, header: Header) -> Weights:
    @contextmanager
    def read() -> Iterator[TensorFile]:
        with open_regular(path) as file:
            now = read_header(file, size_of(file), path.name)
            if now.raw != header.raw:
                raise RequestError(f"{path.name} was changed while it was imported; import it again.")
            tensors = read_tensors(file, now, path.name)
            yield TensorFile(path=target, header=now.raw, data_bytes=now.data_bytes, tensors=tensors)

    size = 8 + len(header.raw) + header.data_bytes
    return Weights(source=path.name, size_bytes=size, sha256=None, open=read)
