"""The signed logs of an asset: commit records, alias entries, annotations (hash-chained) and tombstones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError

from lightmill.errors import ConflictError, IntegrityError, NotFoundError
from lightmill.records.annotations import Annotation
from lightmill.records.assets import AliasEntry, CommitRecord, Tombstone
from lightmill.records.base import Record
from lightmill.registry import names
from lightmill.storage import BlobStore
from lightmill.vault import (
    ALIAS_TYPE,
    ANNOTATION_TYPE,
    COMMIT_TYPE,
    TOMBSTONE_TYPE,
    KeyRing,
    canonical_json,
    parse_json,
    verify,
)

RECORD_MAX_BYTES = 16 << 20
EntryT = TypeVar("EntryT", CommitRecord, AliasEntry, Tombstone, Annotation)
RecordT = TypeVar("RecordT", bound=Record)


def read_record(kind: type[RecordT], data: bytes, max_bytes: int, name: str) -> RecordT:
    """Return the record that canonical JSON holds; an error never quotes the data, which may hold keys.

    Raises:
        IntegrityError: It is no record of this kind.
    """
    try:
        return kind.model_validate(parse_json(data, max_bytes, name=name))
    except ValidationError:
        raise IntegrityError(f"Object {name} is no {kind.__name__} of this format.") from None


def fetch(store: BlobStore, name: str) -> bytes:
    """Return an object that must be there.

    Raises:
        IntegrityError: It is missing.
    """
    try:
        return store.get(name)
    except NotFoundError as exc:
        raise IntegrityError(f"Object {name} is missing from {store.url}; restore it from a backup.") from exc


@dataclass(slots=True, kw_only=True)
class Census:
    """What the store lists for one asset; nothing of it is verified.

    `aliases` maps an alias to the number of its last move, `annotations` is the number of the last one.
    """

    versions: set[int] = field(default_factory=set)
    tombstones: set[int] = field(default_factory=set)
    aliases: dict[str, int] = field(default_factory=dict)
    annotations: int = 0


class SignedLog:
    """Reads and appends entries; nothing is returned before its signature and place have verified."""

    def __init__(self, store: BlobStore, keyring: KeyRing, workspace: str, store_id: str) -> None:
        self._store = store
        self._keyring = keyring
        self._workspace = workspace
        self._store_id = store_id

    def assets(self) -> list[str]:
        """Return the opaque ids of all assets on the store."""
        return sorted({name.split("/")[1] for name in self._store.list(names.RECORDS) if "/v/" in name})

    def census(self) -> dict[str, Census]:
        """Return what the store lists for every asset, from one listing; names that are not ours are left out."""
        found: dict[str, Census] = {}
        for name in self._store.list(names.RECORDS):
            _, mid, *parts = name.split("/")
            if not parts[-1:] or not parts[-1].isdigit():
                continue
            asset, number = found.setdefault(mid, Census()), int(parts[-1])
            match parts[:-1]:
                case ["v"]:
                    asset.versions.add(number)
                case ["t"]:
                    asset.tombstones.add(number)
                case ["a", alias]:
                    asset.aliases[alias] = max(number, asset.aliases.get(alias, 0))
                case ["k"]:
                    asset.annotations = max(number, asset.annotations)
        return found

    def check_ring(self) -> None:
        """See, where nothing was found by name, that the store's records are signed by somebody we trust.

        Another key ring derives other ids from the same names, so with it every asset seems to be missing.

        Raises:
            IntegrityError: They are not: the key ring is not the one of this store.
        """
        name = next((name for name in self._store.list(names.RECORDS) if "/v/" in name), None)
        if name is None:
            return
        try:
            verify(self._store.get(name), COMMIT_TYPE, self._keyring.trusted, name=name)
        except IntegrityError as exc:
            raise IntegrityError(
                f"The key ring {self._keyring.path} does not belong to the store at {self._store.url}, or "
                f"{name} is damaged. Put the key ring back that the store was written with."
            ) from exc

    def last(self, prefix: str) -> int:
        """Return the highest number below `prefix`, 0 when there is none."""
        return max((names.last_number(name) for name in self._store.list(prefix)), default=0)

    def last_after(self, mid: str, seq: int) -> int:
        """Return the highest version number, from one that exists on; numbers have no gaps."""
        while self._is_taken(mid, seq + 1):
            seq += 1
        return seq

    def _is_taken(self, mid: str, seq: int) -> bool:
        try:
            self._store.head(names.record_name(mid, seq))
        except NotFoundError:
            return False
        return True

    def commit(self, mid: str, seq: int, *, what: str, expect: str | None = None) -> tuple[CommitRecord, str]:
        """Return a verified commit record and its digest.

        Raises:
            NotFoundError: There is no such version.
            IntegrityError: It does not verify, stands in another's place, or differs from `expect`.
        """
        entry, digest = self._read(names.record_name(mid, seq), COMMIT_TYPE, CommitRecord, what)
        self._check_place(entry, (mid, seq), (entry.mid, entry.seq), what)
        if expect is not None and digest != expect:
            raise IntegrityError(f"The commit record of {what} has another digest than was pinned; it was replaced.")
        self._check_parent(names.record_name(mid, seq - 1) if seq > 1 else None, entry.parent, what)
        return entry, digest

    def alias(self, mid: str, alias: str, n: int, *, what: str) -> tuple[AliasEntry, str]:
        """Return a verified alias entry and its digest; errors as `commit`."""
        entry, digest = self._read(names.alias_name(mid, alias, n), ALIAS_TYPE, AliasEntry, what)
        self._check_place(entry, (mid, alias, n), (entry.mid, entry.alias, entry.n), what)
        self._check_parent(names.alias_name(mid, alias, n - 1) if n > 1 else None, entry.parent, what)
        return entry, digest

    def tombstone(self, mid: str, seq: int, *, what: str) -> tuple[Tombstone, str]:
        """Return a verified tombstone and its digest; errors as `commit`.

        Only the tombstone that names the digest of its version's commit record counts.
        """
        entry, digest = self._read(names.tombstone_name(mid, seq), TOMBSTONE_TYPE, Tombstone, what)
        self._check_place(entry, (mid, seq), (entry.mid, entry.seq), what)
        if hashlib.sha256(fetch(self._store, names.record_name(mid, seq))).hexdigest() != entry.record:
            raise IntegrityError(f"The tombstone of {what} names another commit record; one of them was replaced.")
        return entry, digest

    def tombstones(self, mid: str) -> dict[int, Tombstone]:
        """Return the verified tombstones of an asset, by version number; errors as `commit`."""
        return {seq: self.tombstone(mid, seq, what=f"{mid}@{seq}")[0] for seq in self.tombstoned(mid)}

    def tombstoned(self, mid: str) -> list[int]:
        """Return the numbers under which the store holds a tombstone, not verified."""
        return [names.last_number(name) for name in self._store.list(names.tombstones_prefix(mid))]

    def annotations(self, mid: str, first: int, last: int, *, what: str) -> Iterator[tuple[Annotation, str]]:
        """Yield the verified annotations from number `first` to `last` with their digests; errors as `commit`.

        NotFoundError, for one that is missing, is an IntegrityError here: those after it are there.
        """
        before: str | None = None
        for n in range(first, last + 1):
            name = names.annotation_name(mid, n)
            try:
                entry, digest = self._read(name, ANNOTATION_TYPE, Annotation, f"annotation {n} of {what}")
            except NotFoundError as exc:
                raise IntegrityError(f"Object {name} is missing from {self._store.url}; one after it is not.") from exc
            self._check_place(entry, (mid, n), (entry.mid, entry.n), f"annotation {n} of {what}")
            if before is None:
                self._check_parent(names.annotation_name(mid, n - 1) if n > 1 else None, entry.parent, what)
            elif entry.parent != before:
                raise IntegrityError(f"Annotation {n} of {what} does not follow the one before it; one was replaced.")
            before = digest
            yield entry, digest

    def append_commit(self, record: CommitRecord) -> str | None:
        """Create a commit record; return its digest, or None if another publisher took the number."""
        return self._append(names.record_name(record.mid, record.seq), COMMIT_TYPE, record)

    def append_alias(self, entry: AliasEntry) -> str | None:
        """Create an alias entry; return its digest, or None if somebody else moved the alias first."""
        return self._append(names.alias_name(entry.mid, entry.alias, entry.n), ALIAS_TYPE, entry)

    def append_tombstone(self, tombstone: Tombstone) -> str | None:
        """Create a tombstone; return its digest, or None if somebody else deleted the version first."""
        return self._append(names.tombstone_name(tombstone.mid, tombstone.seq), TOMBSTONE_TYPE, tombstone)

    def append_annotation(self, entry: Annotation) -> str | None:
        """Create an annotation; return its digest, or None if somebody else took the number."""
        return self._append(names.annotation_name(entry.mid, entry.n), ANNOTATION_TYPE, entry)

    def _append(self, name: str, payload_type: str, entry: Record) -> str | None:
        data = self._keyring.signer.sign(canonical_json(entry.model_dump(mode="json")), payload_type)
        try:
            self._store.create(name, data)
        except ConflictError:
            # A lost answer followed by a retry says "exists" of our own entry: compare before giving up.
            if self._store.get(name) != data:
                return None
        return hashlib.sha256(data).hexdigest()

    def _read(self, name: str, payload_type: str, kind: type[EntryT], what: str) -> tuple[EntryT, str]:
        try:
            data = self._store.get(name)
        except NotFoundError as exc:
            raise NotFoundError(f"There is no {what}: {self._store.url} holds no object {name}.") from exc
        payload, key_id = verify(data, payload_type, self._keyring.trusted, name=name)
        entry = read_record(kind, payload, RECORD_MAX_BYTES, name)
        if entry.publisher != key_id:
            raise IntegrityError(f"Object {name} names another publisher than the one who signed it.")
        return entry, hashlib.sha256(data).hexdigest()

    def _check_place(
        self,
        entry: CommitRecord | AliasEntry | Tombstone | Annotation,
        asked: tuple[object, ...],
        found: tuple[object, ...],
        what: str,
    ) -> None:
        here = (self._store_id, self._workspace)
        if (entry.store, entry.workspace) != here or asked != found:
            raise IntegrityError(f"The record of {what} belongs elsewhere; it was copied or swapped.")

    def _check_parent(self, previous: str | None, parent: str | None, what: str) -> None:
        """Check that an entry follows the one before it; so no number is missing and none was replaced."""
        try:
            found = hashlib.sha256(self._store.get(previous)).hexdigest() if previous else None
        except NotFoundError as exc:
            raise IntegrityError(f"The record before {what} is missing from {self._store.url}.") from exc
        if found != parent:
            raise IntegrityError(f"The record of {what} does not follow the one before it; one was replaced.")
