"""Files of any place that pyarrow opens, and of HTTP: found by path, folder, glob or URI, in name order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import fs as arrow_fs

from lightmill.datasets.sources.fetching import fetch
from lightmill.datasets.sources.problems import reading_errors
from lightmill.errors import NotFoundError, RequestError, UnavailableError
from lightmill.records.assets import SourceFile
from lightmill.records.base import Record
from lightmill.records.sources import FilesSpec

_WILD = re.compile(r"[*?\[]")
_READ_BYTES = 8 << 20


class FileRef(Record):
    """A file: `path` for people, `key` for the file system, and what tells that it is still the same."""

    path: str
    key: str
    size_bytes: int
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where files lie. Pickles: every process opens its own file system.

    Attributes:
        scheme: "file", "http" (https too), or the scheme of a URI.
        root: What opens the file system: a URI without its path, or "".
        sha256: The digest of the one file of an HTTP place.
        limit_bytes: The largest file taken over HTTP.
    """

    scheme: str
    root: str = ""
    endpoint: str = ""
    region: str = ""
    sha256: str = ""
    limit_bytes: int = 0

    @contextmanager
    def open(self, file: FileRef) -> Iterator[IO[bytes]]:
        """Open a file for reading and seeking, after checking that it has not changed.

        Raises:
            NotFoundError: It is gone.
            RequestError: It is another file than when it was listed.
            UnavailableError: The place does not answer.
        """
        if self.scheme == "http":
            yield fetch(file.key, self.sha256, self.limit_bytes)
            return
        system = filesystem(self)
        found = _info(system, file.key, file.path)
        if _fingerprint(found) != file.fingerprint:
            raise RequestError(f"{file.path} has changed since this job began; run the job again.")
        with system.open_input_file(file.key) as opened:
            yield opened


@lru_cache(maxsize=32)
def filesystem(place: Place) -> arrow_fs.FileSystem:
    """Return the file system of a place, opened once a process; credentials come from the environment.

    Raises:
        RequestError: pyarrow has no file system for the URI, or cannot use it here.
    """
    if place.scheme == "file":
        return arrow_fs.LocalFileSystem()
    try:
        if place.scheme == "s3" and (place.endpoint or place.region):
            return arrow_fs.S3FileSystem(endpoint_override=place.endpoint or None, region=place.region or None)
        return arrow_fs.FileSystem.from_uri(place.root)[0]
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise RequestError(
            f"The scheme {place.scheme!r} cannot be opened: {str(exc).splitlines()[0][:200]}. Use a local path, "
            "s3://, gs://, hdfs:// or https://."
        ) from exc


def find_files(spec: FilesSpec, folder: Path, suffixes: Sequence[str] = ()) -> tuple[tuple[Place, FileRef], ...]:
    """Return the files that a specification names: paths in their order, the files of each in name order.

    A folder stands for the files below it that end in one of `suffixes` (of any, if there are none), without
    those whose name or folder begins with a dot or an underscore.

    Raises:
        NotFoundError: A path names no file.
        RequestError: A path is malformed, or two of them name the same file.
        UnavailableError: The place does not answer.
    """
    found = [(place, file) for path in spec.paths() for place, file in _find(path, spec, folder, suffixes)]
    names = [file.path for _, file in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"{twice} is named twice in path; name each file once.")
    return tuple(found)


def place_of(path: str, spec: FilesSpec, folder: Path) -> tuple[Place, str]:
    """Return the place that a path is in, and its key there (a folder, file or glob)."""
    scheme = path.partition("://")[0] if "://" in path else "file"
    if scheme in ("http", "https"):
        place = Place(scheme="http", sha256=spec.sha256 or "", limit_bytes=spec.limits.download_bytes)
        return place, path
    if scheme == "file":
        return Place(scheme="file"), str(folder.resolve() / path.removeprefix("file://"))
    rest = path.partition("://")[2]
    if scheme in ("hdfs", "viewfs"):
        authority, _, key = rest.partition("/")
        return Place(scheme=scheme, root=f"{scheme}://{authority}/"), f"/{key}"
    bucket = rest.partition("/")[0]
    if not bucket or "?" in path:
        raise RequestError(f"A {scheme} path is {scheme}://BUCKET/KEY; an endpoint or region is a key of the source.")
    return Place(scheme=scheme, root=f"{scheme}://{bucket}", endpoint=spec.endpoint, region=spec.region), rest


def digest_files(files: Iterable[tuple[Place, FileRef]]) -> tuple[SourceFile, ...]:
    """Return name, size and SHA-256 of each file; reads them once, whole; raises as `Place.open` does."""
    return tuple(_digested(place, file) for place, file in files)


def _digested(place: Place, file: FileRef) -> SourceFile:
    digest, size = hashlib.sha256(), 0
    with reading_errors(file.path) as problem, place.open(file) as opened:
        while data := opened.read(_READ_BYTES):
            digest.update(data)
            size += len(data)
    if problem:
        raise UnavailableError(f"{file.path}: {problem[0]}.")
    return SourceFile(name=file.path, size_bytes=size, sha256=digest.hexdigest())


def _find(path: str, spec: FilesSpec, folder: Path, suffixes: Sequence[str]) -> list[tuple[Place, FileRef]]:
    place, key = place_of(path, spec, folder)
    if place.scheme == "http":
        return [(place, FileRef(path=path, key=path, size_bytes=0, fingerprint=f"sha256:{place.sha256}"))]
    system = filesystem(place)
    if _WILD.search(key):
        infos = _matching(system, key, path)
    else:
        info = _info(system, key, path)
        infos = _below(system, info.path, suffixes) if info.type == arrow_fs.FileType.Directory else [info]
    if not infos:
        raise NotFoundError(f"No file matches {path}{_from(place, folder)}; correct path, or put the files there.")
    shown = path.partition("://")[0] + "://" if place.scheme != "file" else ""
    base = str(folder.resolve()) + "/"
    return [
        (
            place,
            FileRef(
                path=shown + info.path.lstrip("/") if shown else info.path.removeprefix(base),
                key=info.path,
                size_bytes=info.size or 0,
                fingerprint=_fingerprint(info),
            ),
        )
        for info in sorted(infos, key=lambda info: info.path)
    ]


def _from(place: Place, folder: Path) -> str:
    return f" (taken from {folder})" if place.scheme == "file" else ""


def _info(system: arrow_fs.FileSystem, key: str, path: str) -> Any:
    with reading_errors(path) as problem:
        info = system.get_file_info(key)
        if info.type == arrow_fs.FileType.NotFound:
            raise NotFoundError(f"No file at {path}; a relative path is taken from the specification's folder.")
        return info
    raise UnavailableError(f"{path}: {problem[0]}.")


def _listed(system: arrow_fs.FileSystem, base: str, path: str, recursive: bool) -> list[Any]:
    selector = arrow_fs.FileSelector(base, allow_not_found=True, recursive=recursive)
    with reading_errors(path) as problem:
        return [info for info in system.get_file_info(selector) if info.type == arrow_fs.FileType.File]
    raise UnavailableError(f"{path}: {problem[0]}.")


def _below(system: arrow_fs.FileSystem, base: str, suffixes: Sequence[str]) -> list[Any]:
    endings = tuple(suffix.lower() for suffix in suffixes)
    return [
        info
        for info in _listed(system, base, base, recursive=True)
        if not any(part.startswith((".", "_")) for part in info.path[len(base) :].strip("/").split("/"))
        and (not endings or info.path.lower().endswith(endings))
    ]


def _matching(system: arrow_fs.FileSystem, pattern: str, path: str) -> list[Any]:
    parts = pattern.split("/")
    first = next(number for number, part in enumerate(parts) if _WILD.search(part))
    wanted = re.compile(_pattern(pattern))
    recursive = first < len(parts) - 1 or "**" in pattern
    listed = _listed(system, "/".join(parts[:first]) or "/", path, recursive)
    return [info for info in listed if wanted.fullmatch(info.path)]


def _pattern(glob: str) -> str:
    """Return the regular expression of a glob: `**/` any folders, `*` and `?` within one, `[...]` a set."""
    out = ""
    for piece in re.findall(r"\*\*/|\*+|\?|\[!?[^\]]+\]|.", glob, re.S):
        if piece == "**/":
            out += "(?:[^/]+/)*"
        elif piece.startswith("*"):
            out += "[^/]*"
        elif piece == "?":
            out += "[^/]"
        elif piece.startswith("[") and len(piece) > 1:
            out += piece.replace("[!", "[^", 1).replace("\\", "\\\\")
        else:
            out += re.escape(piece)
    return out


def _fingerprint(info: Any) -> str:
    return f"size:{info.size or 0},mtime_ns:{info.mtime_ns or 0}"
