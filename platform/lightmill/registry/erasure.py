"""Keys of their own for assets and workspaces, and erasing them by destroying those keys.

What is encrypted under a key that exists nowhere is noise, in every copy and every backup. That holds only if
no copy of the wrapped version keys is under another root key: an envelope that was written before `isolate`
and kept in a backup opens with the older key until that is destroyed too (`destroy_key`). A local key ring's
own backups hold its root keys; a key service keeps none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lightmill.errors import ConflictError, NotFoundError, RequestError
from lightmill.records.base import now_iso
from lightmill.registry.envelopes import VersionEnvelopes, all_envelopes, all_leases
from lightmill.registry.rotation import KeyName, KeyUse, Rotated, Rotation, key_use
from lightmill.storage import BlobStore
from lightmill.vault import DEPLOYMENT, Erasure, KeyRing, RootKey, read_envelope_head
from lightmill.vault.receipts import AuditTrail, KeyAction, KeyFate, Receipt, new_receipt_id
from lightmill.vault.scopes import describe, within

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a key is for: its scope, how people call it, and the asset id when it is one asset."""

    scope: str
    what: str
    mid: str | None = None
    workspace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolated:
    """A scope's own key, what came under it, and how many versions older keys of wider scopes still hold."""

    key: RootKey
    rotated: Rotated
    receipt: Receipt


class KeyCare:
    """Changes the root keys of one deployment, with a receipt for each change."""

    def __init__(self, store: BlobStore, keyring: KeyRing, store_id: str) -> None:
        self._store = store
        self._keyring = keyring
        self._rotation = Rotation(store, keyring, store_id)
        self.trail = AuditTrail(keyring)

    def rotate(
        self, *, workspace: str | None = None, scope: str = DEPLOYMENT, new_keys: bool = True, progress: Progress | None
    ) -> tuple[list[RootKey], Rotated, Receipt]:
        """Make a new root key for each scope inside `scope` that has one, and wrap all envelopes again.

        New keys are made in the service that holds the deployment's current key, whichever held the old ones.
        Without `new_keys` only wrap again: to finish after a crash, or after the key service was changed.

        Raises:
            RequestError: The scope has no key of its own, or a key service refuses to make one.
            UnavailableError: A service or the store does not answer; run it again without new keys.
        """
        self.trail.read()
        current = [key for key in self._keyring.root_keys if key.current and within(key.scope, scope)]
        if scope != DEPLOYMENT and not any(key.scope == scope for key in current):
            raise RequestError(f"{describe(scope)} has no root key of its own; see `lightmill keys isolate`")
        for key in current if new_keys else ():
            self._keyring.add_root_key(key.scope)
        keys = [key for key in self._keyring.root_keys if key.current and within(key.scope, scope)]
        rotated = self._rotation.run(workspace=workspace, progress=progress)
        receipt = self.trail.append(
            KeyAction.ROTATE, scope=scope, what=describe(scope), keys=_fates(keys), versions=rotated.rewrapped
        )
        return keys, rotated, receipt

    def isolate(self, subject: Subject, *, key_id: str | None = None, progress: Progress | None = None) -> Isolated:
        """Give a scope a root key of its own, if it has none, and wrap its versions again under it.

        Raises:
            RequestError: A key service refuses to make the key.
            UnavailableError: A service or the store does not answer; run it again.
        """
        self.trail.read()
        if key_id or self._current(subject.scope) is None:
            self._keyring.add_root_key(subject.scope, key_id=key_id)
        key = self._keyring.provider.current(subject.scope)
        rotated = self._rotation.run(subject.mid, workspace=subject.workspace, progress=progress)
        receipt = self.trail.append(
            KeyAction.ISOLATE,
            scope=subject.scope,
            what=subject.what,
            keys=_fates([key]),
            versions=rotated.rewrapped,
        )
        return Isolated(key=key, rotated=rotated, receipt=receipt)

    def check_erasable(self, subject: Subject) -> tuple[list[RootKey], int]:
        """Return the root keys that erasing would destroy and the number of versions under them.

        Raises:
            RequestError: The scope has no key of its own, or a version is still under another key.
        """
        keys = [key for key in self._keyring.root_keys if within(key.scope, subject.scope)]
        if not any(key.scope == subject.scope for key in keys):
            raise RequestError(
                f"{subject.what} has no root key of its own, so destroying its key would destroy others' data. Give "
                f"it one first: `lightmill keys isolate {_words(subject)}`"
            )
        inside, outside = self._placed(subject, keys)
        if outside:
            raise ConflictError(
                f"{outside} versions of {subject.what} are still wrapped by another root key. Finish with "
                f"`lightmill keys isolate {_words(subject)}`, then erase"
            )
        return keys, inside

    def erase(self, subject: Subject) -> Receipt:
        """Destroy every root key of a scope, leave tombstones, and write the receipt; repeating it is safe.

        Raises:
            RequestError: As `check_erasable`; or a key service refuses.
            UnavailableError: A service, the store or the disk does not answer; run it again.
        """
        keys, versions = self.check_erasable(subject)
        receipts = self.trail.read()
        live = [key for key in keys if key.erased is None]
        if not live:
            return self._already(subject, keys, receipts, versions)
        receipt = new_receipt_id()
        self.trail.append(
            KeyAction.ERASE_BEGUN,
            scope=subject.scope,
            what=subject.what,
            keys=_fates(live),
            versions=versions,
            receipt=receipt,
        )
        self._remove_other_copies(subject, keys)
        final = self._keyring.destroy_root_keys(live, Erasure(at=now_iso(), receipt=receipt))
        return self._done(subject, live, final, versions, receipt)

    def destroy_key(self, key: RootKey) -> Receipt:
        """Destroy one root key that protects nothing on the store any more, such as one from before a rotation.

        Raises:
            ConflictError: It is current, or envelopes or leases of open drafts are under it.
            NotFoundError: It was destroyed already.
        """
        receipts = self.trail.read()
        if key.erased is not None:
            if any(found.receipt == key.erased.receipt for found in receipts):
                raise NotFoundError(f"{key.key_id} was destroyed at {key.erased.at}, receipt {key.erased.receipt}")
            return self._destroyed(key, key.erased.receipt)  # a crash came before the receipt
        if key.current:
            raise ConflictError(f"{key.key_id} is current for {describe(key.scope)}; rotate first")
        if self._keyring.protection_key == (key.provider, key.key_id):
            raise ConflictError(f"{key.key_id} seals the key ring itself; protect the ring by something else first")
        use = key_use(self._store)
        name = (key.provider, key.key_id)
        if use.versions[name] or use.leases[name]:
            raise ConflictError(
                f"{use.versions[name]} versions and {use.leases[name]} open drafts are under {key.key_id}; run "
                "`lightmill keys rotate --no-new-key` and let the drafts end"
            )
        receipt = new_receipt_id()
        self._keyring.destroy_root_keys([key], Erasure(at=now_iso(), receipt=receipt))
        return self._destroyed(key, receipt)

    def _destroyed(self, key: RootKey, receipt: str) -> Receipt:
        final = self._keyring.provider.service(key.provider).destroy(key.key_id)  # again: it says until when
        fates = (KeyFate(provider=key.provider, key_id=key.key_id, final=final),)
        return self.trail.append(
            KeyAction.DESTROY, scope=key.scope, what=describe(key.scope), keys=fates, receipt=receipt
        )

    def use(self, mid: str | None = None, progress: Callable[[int], None] | None = None) -> KeyUse:
        """Count the versions and drafts under each root key."""
        return key_use(self._store, mid, progress=progress)

    def _current(self, scope: str) -> RootKey | None:
        return next((key for key in self._keyring.root_keys if key.scope == scope and key.current), None)

    def _envelopes(self, subject: Subject) -> Iterator[tuple[VersionEnvelopes, list[tuple[str, KeyName]]]]:
        """Yield the subject's versions with each envelope's name and root key, the newest envelope last."""
        for version in all_envelopes(self._store, subject.mid):
            heads = [(name, read_envelope_head(self._store.get(name), name=name)) for name in version.names]
            if subject.mid or heads[0][1].context.get("workspace") == subject.workspace:
                yield version, [(name, (head.provider, head.key_id)) for name, head in heads]

    def _placed(self, subject: Subject, keys: list[RootKey]) -> tuple[int, int]:
        """Return how many versions of the subject are under these keys, and how many are not."""
        ours = {(key.provider, key.key_id) for key in keys}
        inside = [found[-1][1] in ours for version, found in self._envelopes(subject) if version.committed]
        return sum(inside), len(inside) - sum(inside)

    def _remove_other_copies(self, subject: Subject, keys: list[RootKey]) -> None:
        """Remove what holds a version key under another root key: leases, and envelopes that a crash left."""
        ours = {(key.provider, key.key_id) for key in keys}
        mids = {subject.mid} if subject.mid else set()
        for version, found in self._envelopes(subject):
            mids.add(version.mid)
            for name, key in found:
                if key not in ours:
                    self._store.delete(name)
        for lease in all_leases(self._store):
            if lease.mid in mids:
                self._store.delete(lease.name)

    def _already(self, subject: Subject, keys: list[RootKey], receipts: list[Receipt], versions: int) -> Receipt:
        """Return the receipt of an erasure that happened, writing it if a crash came before it."""
        last = max((key.erased for key in keys if key.erased), key=lambda erased: erased.at)
        for receipt in receipts:
            if receipt.receipt == last.receipt and receipt.action is not KeyAction.ERASE_BEGUN:
                return receipt
        dead = [key for key in keys if key.erased and key.erased.receipt == last.receipt]
        final = {key.key_id: self._keyring.provider.service(key.provider).destroy(key.key_id) for key in dead}
        return self._done(subject, dead, final, versions, last.receipt)

    def _done(
        self, subject: Subject, keys: list[RootKey], final: dict[str, str], versions: int, receipt: str
    ) -> Receipt:
        fates = [KeyFate(provider=key.provider, key_id=key.key_id, final=final[key.key_id]) for key in keys]
        return self.trail.append(
            KeyAction.ERASE, scope=subject.scope, what=subject.what, keys=fates, versions=versions, receipt=receipt
        )


def _fates(keys: list[RootKey]) -> tuple[KeyFate, ...]:
    return tuple(KeyFate(provider=key.provider, key_id=key.key_id) for key in keys)


def _words(subject: Subject) -> str:
    return subject.what if subject.mid else "--workspace"
