"""What the records of a store say, read without a secret: which versions there are and what each needs.

The public keys of trusted publishers are all it takes. A commit record that nobody trusted signed still keeps
alive what it names; a tombstone counts only when it is signed by somebody trusted and names the version's
record by digest. So nothing that an attacker adds makes an object look unneeded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.records.assets import CommitRecord, Tombstone
from lightmill.records.care import Finding, Problem
from lightmill.registry import names
from lightmill.registry.care.parallel import THREADS, each
from lightmill.registry.signed import RECORD_MAX_BYTES, read_record
from lightmill.storage import BlobStore
from lightmill.vault import COMMIT_TYPE, TOMBSTONE_TYPE, decode_base64, parse_json, verify

Key = tuple[str, int]
"""An asset's opaque id and a version number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One commit record. `problem` says why its signature or place does not hold; empty when they do."""

    mid: str
    seq: int
    name: str
    digest: str
    record: CommitRecord
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.mid}@{self.seq}"

    def needs(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of every object that the version is made of."""
        yield names.manifest_name(self.record.manifest.id), self.record.manifest.size
        for blob in self.record.blobs:
            yield names.blob_name(blob.id), blob.size


class Ledger:
    """The commit records and tombstones of one store, as of the last `refresh`."""

    def __init__(
        self, store: BlobStore, trusted: Mapping[str, bytes], store_id: str, *, threads: int = THREADS
    ) -> None:
        self._store = store
        self._trusted = trusted
        self.store_id = store_id
        self._threads = threads
        self.versions: dict[Key, Version] = {}
        self.tombstones: dict[Key, Tombstone] = {}
        self.findings: dict[str, Finding] = {}

    def refresh(self) -> Iterable[str]:
        """List the records again and read those that are new; return the names of all records listed.

        Raises:
            UnavailableError: The store does not answer.
        """
        listed = list(self._store.list(names.RECORDS))
        fresh = [name for name in listed if _part(name) == "v" and not self._known(name)]
        for version in each(self._read_commit, fresh, self._threads):
            if version is not None:
                self.versions[version.mid, version.seq] = version
        fresh = [name for name in listed if _part(name) == "t" and key_of(name) not in self.tombstones]
        for name, tombstone in each(self._read_tombstone, fresh, self._threads):
            if tombstone is not None:
                self.tombstones[key_of(name)] = tombstone
        return listed

    def read(self, name: str) -> None:
        """Read one commit record again, such as one that was missing; an absent one changes nothing."""
        version = self._read_commit(name)
        if version is not None:
            self.versions[version.mid, version.seq] = version

    def deleted(self, version: Version) -> bool:
        """Whether a trusted tombstone names this very record."""
        tombstone = self.tombstones.get((version.mid, version.seq))
        return tombstone is not None and tombstone.record == version.digest

    def alive(self, pinned: frozenset[str] = frozenset()) -> list[Version]:
        """Return the versions that are not deleted, or are `pinned` by the digest of their record."""
        return [v for v in self.versions.values() if v.digest in pinned or not self.deleted(v)]

    def last(self, mid: str) -> int:
        """Return the highest version number that was read, 0 when there is none."""
        return max((seq for other, seq in self.versions if other == mid), default=0)

    def assets(self) -> list[str]:
        """Return the opaque ids of all assets, sorted."""
        return sorted({mid for mid, _ in self.versions})

    def gaps(self) -> list[Finding]:
        """Return the commit records that must have been there, since later ones are."""
        last: dict[str, int] = {}
        for mid, seq in self.versions:
            last[mid] = max(last.get(mid, 0), seq)
        wanted = (names.record_name(mid, seq) for mid, top in sorted(last.items()) for seq in range(1, top))
        return [
            Finding(problem=Problem.MISSING, object=name, versions=(what_of(name),), detail="a later record exists")
            for name in wanted
            if key_of(name) not in self.versions and name not in self.findings
        ]

    def _known(self, name: str) -> bool:
        return key_of(name) in self.versions

    def _read_commit(self, name: str) -> Version | None:
        """Read one commit record; what cannot be read at all becomes a finding."""
        mid, seq = key_of(name)
        try:
            data = self._store.get(name)
        except NotFoundError:
            return None
        try:
            payload, key_id = verify(data, COMMIT_TYPE, self._trusted, name=name)
            record = read_record(CommitRecord, payload, RECORD_MAX_BYTES, name)
            problem = self._misplaced(record, key_id, name)
        except IntegrityError as exc:
            problem = exc.message
            record = _unverified(data, name)
        if problem:
            self._note(name, problem)
        else:
            self.findings.pop(name, None)
        if record is None:
            return None
        digest = hashlib.sha256(data).hexdigest()
        return Version(mid=mid, seq=seq, name=name, digest=digest, record=record, problem=problem)

    def _misplaced(self, record: CommitRecord, key_id: str, name: str) -> str:
        if key_id != record.publisher:
            return f"{name} names another publisher than the one who signed it"
        if (record.store, record.mid, record.seq) != (self.store_id, *key_of(name)):
            return f"{name} belongs to another place; it was copied or swapped"
        return ""

    def _read_tombstone(self, name: str) -> tuple[str, Tombstone | None]:
        try:
            data = self._store.get(name)
            payload, key_id = verify(data, TOMBSTONE_TYPE, self._trusted, name=name)
            found = read_record(Tombstone, payload, RECORD_MAX_BYTES, name)
        except NotFoundError:
            return name, None
        except IntegrityError as exc:
            self._note(name, exc.message)
            return name, None
        place = (found.store, found.mid, found.seq, found.publisher)
        if place != (self.store_id, *key_of(name), key_id):
            self._note(name, f"{name} belongs to another place; it was copied or swapped")
            return name, None
        self.findings.pop(name, None)
        return name, found

    def _note(self, name: str, detail: str) -> None:
        self.findings[name] = Finding(problem=Problem.DAMAGED, object=name, versions=(what_of(name),), detail=detail)


def key_of(name: str) -> Key:
    """Return asset id and version number of a commit record's or tombstone's name.

    Raises:
        IntegrityError: The name does not end with a number.
    """
    return name.split("/")[1], names.last_number(name)


def what_of(name: str) -> str:
    """Return how reports name the version of a record: `<asset id>@<number>`."""
    mid, seq = key_of(name)
    return f"{mid}@{seq}"


def _part(name: str) -> str:
    parts = name.split("/")
    return parts[2] if len(parts) == 4 and parts[3].isdigit() else ""


def _unverified(data: bytes, name: str) -> CommitRecord | None:
    """Return what a commit record says, whoever signed it; None when it cannot be read."""
    try:
        payload = parse_json(data, RECORD_MAX_BYTES * 2, name=name).get("payload")
        decoded = decode_base64(payload, name=name) if isinstance(payload, str) else b""
        return read_record(CommitRecord, decoded, RECORD_MAX_BYTES, name)
    except IntegrityError:
        return None
