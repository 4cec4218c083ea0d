"""The keyed level of a check: envelopes open, manifests unseal, every segment verifies.

One key opens one version, and stays in this process; names of assets come from the manifests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.records.assets import BlobEntry, Manifest
from lightmill.records.care import Finding, Problem
from lightmill.registry import names
from lightmill.registry.care.ledger import Version
from lightmill.registry.signed import read_record
from lightmill.storage import BlobStore
from lightmill.vault import HEADER_BYTES, BlobContext, BlobReader, KeyRing, open_blob, open_envelope

MANIFEST_MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What opening a version gave: its manifest, if it opened, and what was wrong."""

    version: Version
    manifest: Manifest | None
    findings: tuple[Finding, ...]

    @property
    def what(self) -> str:
        """The version by name and number when its manifest opened, else by its opaque id."""
        if self.manifest is None:
            return str(self.version)
        return f"{self.manifest.kind} {self.manifest.name}@{self.version.seq}"


def open_version(store: BlobStore, keyring: KeyRing, version: Version, envelopes: Sequence[str]) -> Opened:
    """Open every envelope of a version, and its manifest with the key that fits.

    Raises:
        UnavailableError: The store or the key service does not answer.
    """
    record = version.record
    context = {"store": record.store, "workspace": record.workspace, "mid": version.mid, "seq": str(version.seq)}
    keys: list[bytes] = []
    findings: list[Finding] = []
    for name in envelopes:
        try:
            keys.append(
                open_envelope(store.get(name), keyring.provider, context, rot=names.last_number(name), name=name)
            )
        except NotFoundError:
            continue  # rotated away meanwhile
        except IntegrityError as exc:
            findings.append(_finding(name, version, exc.message))
    name = names.manifest_name(record.manifest.id)
    try:
        data = store.get(name)
    except NotFoundError:
        return Opened(version=version, manifest=None, findings=tuple(findings))  # missing: the keyless level says so
    manifest = _unseal(data, keys, version, name)
    if manifest is None and hashlib.sha256(data).hexdigest() == record.manifest.id and keys:
        findings.append(_finding(name, version, "no envelope of the version holds the key that opens it"))
    if manifest is not None:
        findings += _compare(manifest, keyring, version, name)
    return Opened(version=version, manifest=manifest, findings=tuple(findings))


def check_segments(data: bytes, entry: BlobEntry, version: Version, name: str) -> int:
    """Decrypt every segment of a blob and throw it away; return how many there were.

    Raises:
        IntegrityError: One does not verify, or the manifest holds no key.
    """
    context = BlobContext.for_data(version.record.store, version.record.workspace)
    try:
        key = bytes.fromhex(entry.key)
    except ValueError:
        raise IntegrityError(f"The manifest of {version} holds no key for {name}.") from None
    reader = BlobReader.parse(data[:HEADER_BYTES], key, context, len(data), entry.length, name=name)
    view = memoryview(data)
    for index in range(reader.segments):
        offset, length = reader.span(index)
        reader.decrypt(index, view[offset : offset + length])
    return reader.segments


def _unseal(data: bytes, keys: Sequence[bytes], version: Version, name: str) -> Manifest | None:
    record = version.record
    context = BlobContext.for_manifest(record.store, record.workspace, version.mid, version.seq)
    for key in keys:
        try:
            return read_record(Manifest, open_blob(data, key, context, name=name), MANIFEST_MAX_BYTES, name)
        except IntegrityError:
            continue
    return None


def _compare(manifest: Manifest, keyring: KeyRing, version: Version, name: str) -> list[Finding]:
    """Compare the sealed manifest with the signed record and its place."""
    record = version.record
    mid = keyring.asset_id(record.workspace, manifest.kind, manifest.name)
    if (mid, manifest.seq) != (version.mid, version.seq):
        return [_finding(name, version, f"it describes {manifest.kind} {manifest.name}@{manifest.seq}")]
    sealed = {(blob.id, blob.size) for blob in manifest.blobs}
    sealed |= {(file.object, file.size) for file in manifest.files if file.object}
    if sealed != {(blob.id, blob.size) for blob in record.blobs}:
        return [_finding(version.name, version, "it lists other blobs than the manifest does")]
    return []


def _finding(name: str, version: Version, detail: str) -> Finding:
    return Finding(problem=Problem.DAMAGED, object=name, versions=(str(version),), detail=detail)
