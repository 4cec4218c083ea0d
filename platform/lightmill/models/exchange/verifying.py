"""Verifying a version: every byte of it is read again, or a sample that a seed decides."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.models.exchange.blobs import WholeBlobs
from lightmill.models.exchange.signing import fingerprint_of, verify_folder
from lightmill.models.exchange.source import read_limited
from lightmill.records.assets import BlobEntry, FileEntry
from lightmill.records.base import Record
from lightmill.records.jobs import Progress
from lightmill.records.references import VersionId
from lightmill.registry import OpenVersion, Registry
from lightmill.registry.content import key_bytes, open_reader
from lightmill.registry.names import blob_name
from lightmill.vault import HEADER_BYTES, BlobContext

SHOWN_PROBLEMS = 20
KEY_MAX_BYTES = 1 << 16
Report = Callable[[Progress], None]


class Verified(Record):
    """What was read and found whole.

    `objects` of `objects_total` data objects were opened, `segments` of `segments_total` segments decrypted,
    `files` digests compared, `read_bytes` fetched. `sample_percent` and `seed` repeat a sample.
    """

    id: VersionId
    objects: int
    objects_total: int
    segments: int
    segments_total: int
    files: int
    tensors: int
    read_bytes: int
    sample_percent: float | None = None
    seed: int | None = None


def verify_version(
    registry: Registry,
    id: VersionId,
    *,
    sample_percent: float | None = None,
    seed: int = 0,
    report: Report = lambda _: None,
) -> Verified:
    """Read a version again and compare it with its signed record.

    The record's signature, the envelope and the manifest are verified first. Then, of every object: its
    digest, all its tags and its fingerprint, and the digest of every file. A sample checks the size and the
    header of every object, and the tags of the sampled segments.

    Args:
        registry: Where it lies.
        id: Which version.
        sample_percent: Read this share of the segments only, above 0 and at most 100.
        seed: Decides which.
        report: Told how far it is, in objects.

    Raises:
        IntegrityError: Something is not what was written; the message names every such object, up to twenty.
        NotFoundError: There is no such version.
        UnavailableError: The store does not answer.
    """
    version = registry.open(id)
    if sample_percent is not None and sample_percent < 100:
        return _sample(registry, version, sample_percent, seed, report)
    return _whole(registry, version, report)


@dataclass(slots=True, kw_only=True)
class _Problems:
    """What was found damaged; the rest is read all the same, so that one run names everything."""

    found: list[str]

    def check(self, work: Callable[[], None]) -> None:
        try:
            work()
        except IntegrityError as exc:
            if exc.message not in self.found:
                self.found.append(exc.message)

    def end(self, id: VersionId) -> None:
        if self.found:
            shown = " ".join(self.found[:SHOWN_PROBLEMS])
            raise IntegrityError(f"{id} is damaged in {len(self.found)} of its parts: {shown}")


def _whole(registry: Registry, version: OpenVersion, report: Report) -> Verified:
    manifest = version.manifest
    blobs = WholeBlobs(registry, version)
    problems = _Problems(found=[])
    parquet = [file for file in manifest.files if file.object]
    total = len(manifest.blobs) + len(parquet)
    read = 0

    def progress(done: int) -> None:
        report(Progress(phase="verify", done=done, total=total, unit="objects"))

    for entry in manifest.files:
        if entry.object:
            problems.check(lambda entry=entry: _none(version.read_object(entry)))
            read += entry.size
        else:
            problems.check(lambda entry=entry: _exhaust(blobs, entry, progress))
    for blob in manifest.blobs:
        if blob.id not in blobs.seen:  # of tensors that no file lists, as in checkpoints
            problems.check(lambda blob=blob: _none(blobs.plaintext(blob.id)))
            progress(len(blobs.seen))
    problems.check(lambda: _check_tensors(version))
    problems.end(version.id)
    segments = sum(_segments(blob) for blob in manifest.blobs)
    return Verified(
        id=version.id,
        objects=total,
        objects_total=total,
        segments=segments,
        segments_total=segments,
        files=len(manifest.files),
        tensors=len(manifest.tensors),
        read_bytes=blobs.read_bytes + read,
    )


def _exhaust(blobs: WholeBlobs, entry: FileEntry, progress: Callable[[int], None]) -> None:
    for _ in blobs.file(entry):
        progress(len(blobs.seen))


def _none(_: object) -> None:
    """Take a value that only had to be read."""


def _check_tensors(version: OpenVersion) -> None:
    """Check that every tensor's pieces lie in the version's blobs."""
    lengths = {blob.id: blob.length for blob in version.manifest.blobs}
    for tensor in version.manifest.tensors:
        for piece in tensor.pieces:
            if piece.offset < 0 or piece.offset + piece.length > lengths.get(piece.blob, -1):
                raise IntegrityError(
                    f"Tensor {tensor.name!r} of {version.id} asks for bytes that object {blob_name(piece.blob)} "
                    "does not have; its manifest is damaged."
                )


def _segments(blob: BlobEntry) -> int:
    """Return how many segments a blob has; docs/format.md section 3."""
    return (blob.size - HEADER_BYTES - blob.length) // 16


def _sample(registry: Registry, version: OpenVersion, percent: float, seed: int, report: Report) -> Verified:
    blobs = version.manifest.blobs
    places = [(number, index) for number, blob in enumerate(blobs) for index in range(_segments(blob))]
    count = math.ceil(len(places) * percent / 100)
    chosen: dict[int, list[int]] = {}
    for number, index in sorted(random.Random(seed).sample(places, count)):  # noqa: S311 - a repeatable sample
        chosen.setdefault(number, []).append(index)
    problems, sampler = _Problems(found=[]), _Sampler(registry)
    for number, blob in enumerate(blobs):
        problems.check(lambda blob=blob, number=number: sampler.look(blob, chosen.get(number, [])))
        report(Progress(phase="verify", done=number + 1, total=len(blobs), unit="objects"))
    problems.end(version.id)
    return Verified(
        id=version.id,
        objects=len(blobs),
        objects_total=len(blobs) + sum(1 for file in version.manifest.files if file.object),
        segments=count,
        segments_total=len(places),
        files=0,
        tensors=len(version.manifest.tensors),
        read_bytes=sampler.read_bytes,
        sample_percent=percent,
        seed=seed,
    )


class _Sampler:
    """Reads headers and single segments; counts the bytes."""

    def __init__(self, registry: Registry) -> None:
        self.read_bytes = 0
        self._store = registry.store
        self._context = BlobContext.for_data(registry.store_id, registry.workspace)

    def look(self, blob: BlobEntry, indices: list[int]) -> None:
        """Check an object's size and header, and the tags of some segments; IntegrityError if one is wrong."""
        name = blob_name(blob.id)
        reader = open_reader(self._store, name, blob.size, blob.length, key_bytes(blob), self._context)
        self.read_bytes += HEADER_BYTES
        for index in indices:
            offset, length = reader.span(index)
            try:
                reader.decrypt(index, self._store.get_range(name, offset, length))
            except NotFoundError as exc:
                raise IntegrityError(f"Object {name} is missing from {self._store.url}.") from exc
            self.read_bytes += length


class VerifiedFolder(Record):
    """An exported folder whose signature is good for every file in it."""

    folder: str
    files: int
    bytes: int
    key_fingerprint: str


def verify_export(folder: Path, public_key: Path) -> VerifiedFolder:
    """Compare an exported folder with its signature by a key that the caller trusts.

    Raises:
        NotFoundError: There is no such folder, signature or key.
        IntegrityError: A file was changed, added or removed, or another key signed.
        RequestError: model-signing is not installed, or the file holds no public key.
    """
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {folder}.")
    fingerprint = fingerprint_of(read_limited(public_key, KEY_MAX_BYTES))
    verify_folder(folder, public_key)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return VerifiedFolder(folder=str(folder), files=len(sizes), bytes=sum(sizes), key_fingerprint=fingerprint)
