"""Wrapping version keys again under the root keys that are current now. Blobs and manifests are not touched.

For each committed version: create the envelope `rot + 1`, then remove the older ones, and what a publisher
who lost the race for this number left. A crash between the
two leaves both, either of which opens; running again removes the older. A version that has no commit record
yet is left to its publisher, who may still remove its own envelope by name.

Rotation does not help against somebody who has read a version key or a blob key already; see `rekeying`.
Whoever keeps a copy of an old envelope, as a backup of the store does, can open it as long as the old root
key exists anywhere.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lightmill.errors import ConflictError, ErasedError, IntegrityError, NotFoundError
from lightmill.registry import names
from lightmill.registry.envelopes import VersionEnvelopes, all_envelopes, all_leases
from lightmill.registry.signed import SignedLog
from lightmill.storage import BlobStore
from lightmill.vault import (
    BlobContext,
    KeyRing,
    open_blob,
    open_envelope,
    read_envelope_head,
    rewrap_envelope,
)

PASSES = 5
ATTEMPTS = 16
KeyName = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """What a rotation did: versions wrapped again, versions that were right already, and what it had to leave."""

    rewrapped: int = 0
    current: int = 0
    erased: int = 0
    problems: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class KeyUse:
    """Which root keys a store needs: key (provider, id) to the versions and the open drafts under it."""

    versions: Counter[KeyName] = field(default_factory=Counter)
    leases: Counter[KeyName] = field(default_factory=Counter)


def key_use(store: BlobStore, mid: str | None = None, *, progress: Callable[[int], None] | None = None) -> KeyUse:
    """Count what each root key protects, by what the envelopes and leases say; nothing is opened."""
    use = KeyUse()
    for number, version in enumerate(all_envelopes(store, mid), start=1):
        for key in {_key_of(store, name) for name in version.names}:
            if key is not None:
                use.versions[key] += 1
        if progress:
            progress(number)
    for lease in all_leases(store):
        if mid in (None, lease.mid):
            use.leases[lease.provider, lease.key_id] += 1
    return use


def _key_of(store: BlobStore, name: str) -> KeyName | None:
    try:
        head = read_envelope_head(store.get(name), name=name)
    except (NotFoundError, IntegrityError):
        return None
    return head.provider, head.key_id


class Rotation:
    """Brings the envelopes of one store under the current root keys of one key ring."""

    def __init__(self, store: BlobStore, keyring: KeyRing, store_id: str) -> None:
        self._store = store
        self._keyring = keyring
        self._store_id = store_id

    def run(
        self,
        mid: str | None = None,
        *,
        workspace: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Rotated:
        """Wrap again whatever is not under its current root key; repeated until a pass finds nothing to do.

        It may be killed at any point and run again, and may run beside readers, publishers and itself.

        Args:
            mid: One asset only.
            workspace: One workspace only.
            progress: Told how many versions are done, of how many.

        Raises:
            UnavailableError: The store or a key service does not answer; run it again.
        """
        rewrapped, done = 0, Rotated()
        for _ in range(PASSES):
            done = self._pass(list(all_envelopes(self._store, mid)), workspace, progress)
            rewrapped += done.rewrapped
            if not done.rewrapped:
                break
        return Rotated(
            rewrapped=rewrapped,
            current=max(0, done.current - rewrapped),
            erased=done.erased,
            problems=done.problems,
        )

    def _pass(
        self,
        versions: Sequence[VersionEnvelopes],
        workspace: str | None,
        progress: Callable[[int, int], None] | None,
    ) -> Rotated:
        found: Counter[str] = Counter()
        problems: list[str] = []
        for number, version in enumerate(versions, start=1):
            try:
                found[self._version(version, workspace)] += 1
            except ErasedError:
                found["erased"] += 1
            except (IntegrityError, NotFoundError) as exc:
                problems.append(f"{version.mid}@{version.seq}: {exc.message}")
            if progress:
                progress(number, len(versions))
        return Rotated(
            rewrapped=found["rewrapped"],
            current=found["current"],
            erased=found["erased"],
            problems=tuple(problems),
        )

    def _version(self, version: VersionEnvelopes, workspace: str | None) -> str:
        """Bring one version over; "rewrapped", "current", "erased", "draft" or "elsewhere"."""
        if not version.committed:
            return "draft"
        entries = version.names
        for _ in range(ATTEMPTS):
            if not entries:
                raise IntegrityError("it has no envelope; restore it from a backup")
            try:
                return self._bring_over(version, entries, workspace)
            except (NotFoundError, ConflictError) as exc:  # another rotation was here first: look again
                if isinstance(exc, ErasedError):
                    raise
                entries = tuple(sorted(self._store.list(names.envelopes_prefix(version.mid, version.seq))))
        raise IntegrityError("its envelopes change without end; is another rotation stuck?")

    def _bring_over(self, version: VersionEnvelopes, entries: Sequence[str], workspace: str | None) -> str:
        files = {name: self._store.get(name) for name in entries}
        context = self._context(version, files)
        if workspace not in (None, context["workspace"]):
            return "elsewhere"
        heads = {name: read_envelope_head(data, name=name) for name, data in files.items()}
        if any(self._is_erased((head.provider, head.key_id)) for head in heads.values()):
            return "erased"
        target = self._keyring.provider.target(context)
        own, strays = self._sorted_out(version, files, context) if len(files) > 1 else (list(files), [])
        newest = own[-1]
        fresh = (heads[newest].provider, heads[newest].key_id) == target
        if fresh and len(own) == 1 and not strays:
            return "current"
        if not fresh:
            rot = names.last_number(entries[-1]) + 1
            made, rot = rewrap_envelope(files[newest], self._keyring.provider, context, rot=rot, name=newest)
            self._store.create(names.envelope_name(version.mid, version.seq, rot), made)
        for name in (*strays, *(own[:-1] if fresh else own)):
            self._store.delete(name)
        return "rewrapped"

    def _is_erased(self, key: KeyName) -> bool:
        return any((dead.provider, dead.key_id) == key and dead.erased for dead in self._keyring.root_keys)

    def _context(self, version: VersionEnvelopes, files: dict[str, bytes]) -> dict[str, str]:
        """Return the context of a version; its workspace is the envelope's, which its key authenticates."""
        problem: IntegrityError | None = None
        for name, data in files.items():
            try:
                workspace = read_envelope_head(data, name=name).context.get("workspace", "")
            except IntegrityError as exc:
                problem = exc
            else:
                return {
                    "store": self._store_id,
                    "workspace": workspace,
                    "mid": version.mid,
                    "seq": str(version.seq),
                }
        raise problem or IntegrityError("it has no envelope; restore it from a backup")

    def _sorted_out(
        self, version: VersionEnvelopes, files: dict[str, bytes], context: dict[str, str]
    ) -> tuple[list[str], list[str]]:
        """Return the names of the envelopes that hold this version's key, and of those that hold another key.

        The latter are of publishers who lost the race for this number, which is taken for good.
        """
        keys: dict[str, bytes] = {}
        problem: IntegrityError | None = None
        for name, data in files.items():
            try:
                keys[name] = open_envelope(data, self._keyring.provider, context, name=name)
            except IntegrityError as exc:
                problem = exc
        if not keys:
            raise problem or IntegrityError("it has no envelope; restore it from a backup")
        true_key = self._true_key(version, set(keys.values()), context)
        own = sorted(name for name, key in keys.items() if key == true_key)
        return own, sorted(keys.keys() - set(own))

    def _true_key(self, version: VersionEnvelopes, keys: set[bytes], context: dict[str, str]) -> bytes:
        """Return the key that opens the version's manifest."""
        log = SignedLog(self._store, self._keyring, context["workspace"], self._store_id)
        record, _ = log.commit(version.mid, version.seq, what=f"{version.mid}@{version.seq}")
        name = names.manifest_name(record.manifest.id)
        data = self._store.get(name)
        if hashlib.sha256(data).hexdigest() != record.manifest.id:
            raise IntegrityError(f"object {name} is not what was written; restore it from a backup")
        sealed_for = BlobContext.for_manifest(self._store_id, context["workspace"], version.mid, version.seq)
        for key in keys:
            try:
                open_blob(data, key, sealed_for, name=name)
            except IntegrityError:
                continue
            return key
        raise IntegrityError("none of its envelopes holds the key of its manifest; restore it from a backup")
