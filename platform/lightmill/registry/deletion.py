"""Deleting versions: a signed tombstone; bytes go later, by collection. It is never taken back."""

from __future__ import annotations

import secrets
from contextlib import suppress

from lightmill.errors import ConflictError, NotFoundError, RequestError
from lightmill.records.assets import Tombstone
from lightmill.records.base import now_iso
from lightmill.records.references import VersionId
from lightmill.registry import names
from lightmill.registry.marks import TOMBSTONES, Marks
from lightmill.registry.signed import SignedLog
from lightmill.vault import KeyRing

REASON_MAX = 500


class Deletions:
    """Writes tombstones, and says which versions have one."""

    def __init__(self, keyring: KeyRing, workspace: str, store_id: str, log: SignedLog, marks: Marks) -> None:
        self._keyring = keyring
        self._workspace = workspace
        self._store_id = store_id
        self._log = log
        self._marks = marks

    def write(self, id: VersionId, mid: str, reason: str) -> tuple[Tombstone, str]:
        """Delete a version; return its tombstone and the tombstone's digest.

        Raises:
            RequestError: The reason is empty, too long or not printable.
            ConflictError: It was deleted before.
        """
        if not reason.strip() or len(reason) > REASON_MAX or not reason.isprintable():
            raise RequestError(f"Give a reason of 1 to {REASON_MAX} printable characters; it is signed and kept.")
        tombstone = Tombstone(
            store=self._store_id,
            workspace=self._workspace,
            mid=mid,
            seq=id.seq,
            record=id.digest,
            created=now_iso(),
            publisher=self._keyring.signer.key_id,
            nonce=secrets.token_hex(16),
            reason=reason.strip(),
        )
        digest = self._log.append_tombstone(tombstone)
        if digest is None:
            raise ConflictError(f"{id.kind.capitalize()} {id} was deleted by somebody else just now.")
        return tombstone, digest

    def find(self, mid: str, seq: int, what: str) -> Tombstone | None:
        """Return the tombstone of a version, or None; IntegrityError if it is not what was written."""
        mark = self._marks.seen(mid, tombstone_stream(seq))
        try:
            tombstone, _ = self._log.tombstone(mid, seq, what=what)
        except NotFoundError:
            tombstone = None
        if mark:
            self._marks.check(mark, mid, seq if tombstone else 0, f"the tombstones of {what}", names.tombstone_name)
        return tombstone

    def refuse(self, id: VersionId, mid: str) -> None:
        """Refuse a version that was deleted.

        Raises:
            NotFoundError: It was; the message says when and why.
            IntegrityError: Its tombstone is not what was written.
        """
        tombstone = self.find(mid, id.seq, str(id))
        if tombstone:
            raise NotFoundError(
                f"{id.kind.capitalize()} {id} was deleted at {tombstone.created}: {tombstone.reason}. List the "
                f"others with `lightmill {id.kind}s show {id.name}`."
            )

    def seqs(self, mid: str) -> set[int]:
        """Return the deleted version numbers of an asset; every tombstone verifies and none is missing.

        Raises:
            IntegrityError: One is not what was written, or one that was seen before is gone.
        """
        digests: dict[int, str] = {}
        for seq in sorted({*self._log.tombstoned(mid), *self._marks.tombstones(mid)}):
            with suppress(NotFoundError):
                digests[seq] = self._log.tombstone(mid, seq, what=f"{mid}@{seq}")[1]
        self._marks.check_tombstones(mid, digests)
        return set(digests)


def tombstone_stream(seq: int) -> str:
    """Return the marks' stream of one tombstone."""
    return f"{TOMBSTONES}{seq}"
