"""What an import reads: files of the user, opened without following links, and limited before they are parsed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lightmill.errors import NotFoundError, RequestError
from lightmill.models.exchange.streams import TensorFile
from lightmill.records.assets import ModelCard

TEXT_MAX_BYTES = 4 << 20
INDEX_MAX_BYTES = 32 << 20
TOKENIZER_MAX_BYTES = 64 << 20
FILES_MAX_BYTES = 256 << 20
MAX_FILES = 1000
MAX_DEPTH = 3
HASH_BYTES = 1 << 20
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})
CODE_KEY = "auto_map"

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]{0,199}")
_TOKENIZER = re.compile(r"(tokenizer|vocab|added_tokens)\.json|(vocab|merges)\.txt|.*\.(model|tiktoken)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One file of weights to import.

    Attributes:
        source: The source file's base name.
        size_bytes: Its size.
        sha256: The digest of the source file; None if what is sealed is that very file.
        open: Starts to read it as a safetensors file.
    """

    source: str
    size_bytes: int
    sha256: str | None
    open: Callable[[], AbstractContextManager[TensorFile]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model found outside: its weights, its other files by path, and what is known about it.

    `left_out` names what was found and is not imported; `notes` is what the user should know.
    """

    name: str
    format: str
    weights: tuple[Weights, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    card: ModelCard | None = None
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, not a link, for reading.

    Raises:
        NotFoundError: There is no such file.
        RequestError: It is a link, a folder or a device, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise NotFoundError(f"There is no file {path}.") from exc
    except OSError as exc:
        hint = "it is a link; give the file itself" if path.is_symlink() else exc.strerror
        raise RequestError(f"{path} cannot be read: {hint}.") from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RequestError(f"{path} is no regular file.")
    return os.fdopen(descriptor, "rb")


def size_of(file: BinaryIO) -> int:
    """Return the size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def read_limited(path: Path, limit: int) -> bytes:
    """Return a whole small file.

    Raises:
        RequestError: It is larger than `limit` bytes, a link, or cannot be read.
        NotFoundError: There is no such file.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise RequestError(f"{path.name} has more than {limit} bytes, the limit for such a file; it is not imported.")
    return data


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex, with memory for one piece of it."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while piece := file.read(HASH_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def limit_of(name: str) -> int:
    """Return how many bytes a file of this name may have."""
    if _TOKENIZER.fullmatch(name):
        return TOKENIZER_MAX_BYTES
    return INDEX_MAX_BYTES if name.endswith(".index.json") else TEXT_MAX_BYTES


def parse_document(data: bytes, name: str) -> dict[str, Any]:
    """Read a JSON object of a model folder, and refuse one that asks for code of its own.

    Infinity and NaN pass, since configurations of transformers hold them.

    Raises:
        RequestError: It is not a JSON object, nested too deeply, or holds "auto_map" anywhere.
    """
    try:
        found = json.loads(data.decode())
    except (ValueError, RecursionError) as exc:
        raise RequestError(f"{name} is not valid JSON ({str(exc)[:80]}).") from None
    refuse_code(found, name)
    return found if isinstance(found, dict) else {}


def refuse_code(found: Any, name: str) -> None:
    """Check that a document does not name code that comes with the model.

    Raises:
        RequestError: It holds the key "auto_map", or takes an implementation from a hub.
    """
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if CODE_KEY in value:
                raise RequestError(
                    f"{name} holds {CODE_KEY!r}: the model wants to run code of its own, which is never done. "
                    "Use a model whose class is part of transformers, or remove the key if yours is."
                )
            for key, item in value.items():
                if key.endswith("_implementation") or "_implementation_" in key:
                    _refuse_kernel(key, item, name)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _refuse_kernel(key: str, value: Any, name: str) -> None:
    chosen = value.values() if isinstance(value, dict) else [value]
    if any(isinstance(item, str) and "/" in item for item in chosen):
        raise RequestError(f"{name} takes {key!r} from a hub of kernels ({str(value)[:80]!r}), which is code; refused.")


def safe_path(path: str) -> str:
    """Return a relative path of plain names, as files of a version have it.

    Raises:
        RequestError: It is absolute, climbs, hides, or holds odd characters.
    """
    parts = path.split("/")
    if len(parts) > MAX_DEPTH or not all(_PART.fullmatch(part) for part in parts):
        raise RequestError(
            f"{path[:200]!r} is no path for a file of a model: use at most {MAX_DEPTH} parts of letters, digits, "
            "'.', '_', '-' and spaces, none of which begins with a dot."
        )
    return path


def list_files(folder: Path) -> dict[str, int]:
    """Return the files of a folder by relative path, with their sizes; hidden ones are not looked at.

    Raises:
        RequestError: There is a link among them, or there are too many.
    """
    found: dict[str, int] = {}
    waiting = [(folder, "", 1)]
    while waiting:
        place, prefix, depth = waiting.pop()
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as exc:
            raise RequestError(f"{place} cannot be read: {exc.strerror}.") from exc
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = prefix + entry.name
            if entry.is_symlink():
                target = str(Path(entry.path).readlink())
                raise RequestError(
                    f"{path} is a link to {target!r}; an import reads only files that lie in the folder. "
                    "Copy it first with: cp -rL"
                )
            if entry.is_dir(follow_symlinks=False):
                if depth < MAX_DEPTH:
                    waiting.append((Path(entry.path), f"{path}/", depth + 1))
            else:
                found[path] = entry.stat(follow_symlinks=False).st_size
            if len(found) > MAX_FILES:
                raise RequestError(f"{folder.name} holds more than {MAX_FILES} files; that is no model folder.")
    return found
