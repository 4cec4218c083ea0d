"""A version in the making.

The publisher makes a fresh version key and leaves it, wrapped, in a lease on the store; helpers in other
processes get the draft's id, which is no secret, and unwrap the key through their own key ring. Nothing
refers to a draft until the commit record is created, so one that dies leaves no visible version.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from lightmill.errors import ConflictError, IntegrityError, NotFoundError, RequestError
from lightmill.records.assets import BlobEntry, FileEntry, TensorEntry
from lightmill.records.base import Record, now_iso
from lightmill.records.references import AssetKind
from lightmill.registry.content import put_if_absent
from lightmill.registry.names import blob_name, lease_name, renewal_name, renewals_prefix
from lightmill.registry.packing import layer_of
from lightmill.registry.sealing import Reused, restore, seal_items
from lightmill.registry.version import OpenVersion
from lightmill.registry.workers import Progress
from lightmill.storage import BlobStore
from lightmill.vault import (
    BlobContext,
    Confined,
    KeyRing,
    Wrapped,
    canonical_json,
    decode_base64,
    encode_base64,
    new_key,
    parquet_key,
    parse_json,
)

LEASE_MAX_BYTES = 1 << 16


class DraftId(Record):
    """What another process needs to write into a draft; it holds no secret."""

    kind: AssetKind
    name: str
    mid: str
    publish_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedTensors:
    """Tensors on the store: where each lies, in the blobs that hold them; `reused` of these are the parent's."""

    tensors: tuple[TensorEntry, ...]
    blobs: tuple[BlobEntry, ...]
    reused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedFiles:
    """Files on the store, in the blobs that hold them."""

    files: tuple[FileEntry, ...]
    blobs: tuple[BlobEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTensor:
    """A tensor to seal: its safetensors dtype, shape, and bytes (C order, little-endian)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


class Draft(Confined):
    """Writes the parts of one version; `Registry.commit` makes it visible."""

    def __init__(
        self, id: DraftId, store: BlobStore, keyring: KeyRing, workspace: str, store_id: str, key: bytes
    ) -> None:
        self.id = id
        self.key = key
        self._store = store
        self._context = BlobContext.for_data(store_id, workspace)
        self._dedup_key = keyring.dedup_key(workspace, id.mid)
        self._reused: list[Reused] = []

    def __repr__(self) -> str:
        return f"Draft({self.id.kind} {self.id.name}, {self.id.publish_id})"

    def subkey(self, name: str) -> bytes:
        """Return the 32-byte key for the Parquet columns or footer called `name`."""
        return parquet_key(self.key, name)

    def put_object(self, data: bytes | memoryview) -> tuple[str, int]:
        """Store bytes that are encrypted already; return the SHA-256 that names them, and their size."""
        digest = hashlib.sha256(data).hexdigest()
        put_if_absent(self._store, blob_name(digest), data)
        return digest, len(data)

    def seal_tensors(
        self,
        tensors: Sequence[PlainTensor],
        parent: OpenVersion | None = None,
        *,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> SealedTensors:
        """Seal tensors into blobs, except what the blobs of `parent` hold already.

        Args:
            tensors: Their bytes must not change before the commit.
            parent: An earlier version of the same asset; see `sealing`.
            threads: How many threads work; by default two a CPU, four to eight.
            progress: Called with (bytes done, bytes in all).

        Raises:
            RequestError: `parent` is a version of another asset, store or workspace.
            UnavailableError: The store cannot be written.
        """
        if parent and ((parent.id.kind, parent.id.name) != (self.id.kind, self.id.name)):
            raise RequestError(f"{parent.id} cannot be the parent of a version of {self.id.kind} {self.id.name}.")
        if parent and parent.context != self._context:
            raise RequestError(f"{parent.id} lies in another store or workspace; versions share no blobs across them.")
        sealed = seal_items(
            self._store,
            self._context,
            self._dedup_key,
            [tensor.data for tensor in tensors],
            layers=[layer_of(tensor.name) for tensor in tensors],
            parent=parent.manifest.blobs if parent else (),
            threads=threads,
            progress=progress,
        )
        self._reused.extend(sealed.reused)
        entries = tuple(
            TensorEntry(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, pieces=found)
            for tensor, found in zip(tensors, sealed.pieces, strict=True)
        )
        return SealedTensors(tensors=entries, blobs=sealed.blobs, reused=len(sealed.reused))

    def seal_files(self, files: Mapping[str, bytes]) -> SealedFiles:
        """Seal small files into blobs."""
        items = [memoryview(data) for data in files.values()]
        sealed = seal_items(self._store, self._context, self._dedup_key, items)
        entries = tuple(
            FileEntry(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest(), pieces=found)
            for (path, data), found in zip(files.items(), sealed.pieces, strict=True)
        )
        return SealedFiles(files=entries, blobs=sealed.blobs)

    def release(self) -> None:
        """Remove the lease, after the commit or when the draft is given up.

        First, while the lease stands, blobs of the parent that a collector removed since they were looked up are
        made again; see `sealing.restore` for the errors.
        """
        restore(self._store, self._context, self._reused)
        self._store.delete(lease_name(self.id.publish_id))
        for name in list(self._store.list(renewals_prefix(self.id.publish_id))):
            self._store.delete(name)

    def renew(self) -> None:
        """Say that work on the draft goes on: a lease lasts for a day after it was made or renewed.

        Raises:
            UnavailableError: The store cannot be written.
        """
        n = sum(1 for _ in self._store.list(renewals_prefix(self.id.publish_id))) + 1
        with suppress(ConflictError):  # somebody else renewed it at this moment
            self._store.create(renewal_name(self.id.publish_id, n), now_iso().encode())


def begin(store: BlobStore, keyring: KeyRing, workspace: str, store_id: str, kind: AssetKind, name: str) -> Draft:
    """Make a draft with a fresh version key and write its lease."""
    id = DraftId(kind=kind, name=name, mid=keyring.asset_id(workspace, kind, name), publish_id=secrets.token_hex(16))
    key = new_key()
    wrapped = keyring.provider.wrap(key, _lease_context(id, workspace, store_id))
    lease = {
        "format": 1,
        "mid": id.mid,
        "publish": id.publish_id,
        "created": now_iso(),
        "provider": wrapped.provider,
        "key_id": wrapped.key_id,
        "wrapped": encode_base64(wrapped.ciphertext),
    }
    store.create(lease_name(id.publish_id), canonical_json(lease))
    return Draft(id, store, keyring, workspace, store_id, key)


def join(store: BlobStore, keyring: KeyRing, workspace: str, store_id: str, id: DraftId) -> Draft:
    """Open a draft that another process began.

    Raises:
        NotFoundError: The draft was committed or given up.
        IntegrityError: The lease is damaged, or belongs to another key ring.
    """
    name = lease_name(id.publish_id)
    try:
        lease = parse_json(store.get(name), LEASE_MAX_BYTES, name=name)
    except NotFoundError as exc:
        raise NotFoundError(f"The draft {id.publish_id} of {id.name} was committed or given up already.") from exc
    try:
        wrapped = Wrapped(
            provider=lease["provider"],
            key_id=lease["key_id"],
            ciphertext=decode_base64(lease["wrapped"], name=name),
        )
    except KeyError as exc:
        raise IntegrityError(f"Object {name} has no {exc}; it is damaged.") from exc
    key = keyring.provider.unwrap(wrapped, _lease_context(id, workspace, store_id))
    return Draft(id, store, keyring, workspace, store_id, key)


def _lease_context(id: DraftId, workspace: str, store_id: str) -> dict[str, str]:
    return {"store": store_id, "workspace": workspace, "mid": id.mid, "publish": id.publish_id}
