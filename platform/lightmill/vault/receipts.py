"""The audit trail of keys: one signed line for each change, chained by digest, never rewritten.

The trail is `audit.jsonl` beside the key ring, mode 0600. Each line is a signed file (see `signing`) whose
payload is a `Receipt` with its number and the SHA-256 of the line before. The key ring remembers the last
line that it knows of, so that a trail that was cut or removed is noticed too. A line is durable before
`append` returns; half a line that a crash left is no line and goes with the next append.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

from pydantic import ValidationError

from lightmill.errors import IntegrityError, NotFoundError, UnavailableError
from lightmill.records.base import Record, now_iso
from lightmill.vault.canonical import canonical_json, parse_json
from lightmill.vault.keyring import KeyRing
from lightmill.vault.keyring_file import TrailEnd
from lightmill.vault.passphrase import read_private
from lightmill.vault.signing import MAX_SIGNED_BYTES, verify

RECEIPT_TYPE = "application/vnd.lightmill.receipt+json"
TRAIL_FILE = "audit.jsonl"
MAX_TRAIL_BYTES = 256 << 20


class KeyAction(StrEnum):
    """What happened to keys."""

    USE = "use"
    PROTECT = "protect"
    UNPROTECT = "unprotect"
    ROTATE = "rotate"
    ISOLATE = "isolate"
    ERASE_BEGUN = "erase-begun"
    ERASE = "erase"
    DESTROY = "destroy"
    REKEY = "rekey"


class KeyFate(Record):
    """A root key that a receipt is about; `final` is "now", or until when its service can take it back."""

    provider: str
    key_id: str
    final: str = ""


class Receipt(Record):
    """One line of the trail: what was done, when, to which scope and keys; `versions` counts those concerned."""

    format: Literal[1] = 1
    n: int
    previous: str | None
    receipt: str
    created: str
    action: KeyAction
    scope: str
    what: str
    keys: tuple[KeyFate, ...] = ()
    versions: int = 0
    publisher: str


def new_receipt_id() -> str:
    """Return a random id by which people and tombstones name a receipt."""
    return "receipt-" + secrets.token_hex(8)


class AuditTrail:
    """The trail beside one key ring."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self.path = ring.path.with_name(TRAIL_FILE)

    def read(self) -> list[Receipt]:
        """Return every receipt, the oldest first, after the whole chain has verified.

        Raises:
            IntegrityError: When a line was changed, moved, removed or is not signed by a trusted publisher.
            RequestError: When others than its owner can reach the file.
            UnavailableError: When the file system refuses.
        """
        try:
            data = read_private(self.path, MAX_TRAIL_BYTES + 1, "audit trail")
        except NotFoundError:
            data = b""
        return [receipt for receipt, _ in self._verified(data)]

    def append(
        self,
        action: KeyAction,
        *,
        scope: str,
        what: str,
        keys: Iterable[KeyFate] = (),
        versions: int = 0,
        receipt: str = "",
    ) -> Receipt:
        """Sign a receipt, add it durably, and let the key ring remember it.

        Args:
            action: What was done.
            scope: The scope of the keys.
            what: The asset or workspace in words.
            keys: The root keys concerned.
            versions: How many versions were concerned.
            receipt: Its id, when it was chosen before; by default a new one.

        Raises:
            IntegrityError: When the trail was tampered with; nothing is added to it.
            UnavailableError: When the file system refuses; a retry is allowed.
        """
        ring = self._ring
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "rb+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                data = file.read(MAX_TRAIL_BYTES + 1)
                lines = self._verified(data)
                made = Receipt(
                    n=len(lines) + 1,
                    previous=lines[-1][1] if lines else None,
                    receipt=receipt or new_receipt_id(),
                    created=now_iso(),
                    action=action,
                    scope=scope,
                    what=what,
                    keys=tuple(keys),
                    versions=versions,
                    publisher=ring.signer.key_id,
                )
                line = ring.signer.sign(canonical_json(made.model_dump(mode="json")), RECEIPT_TYPE)
                end = data.rfind(b"\n") + 1
                file.truncate(end)
                file.seek(end)
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self._sync_folder()
        except OSError as exc:
            raise UnavailableError(f"The audit trail {self.path} could not be written: {exc.strerror}") from exc
        ring.remember_trail(TrailEnd(n=made.n, digest=hashlib.sha256(line).hexdigest()))
        return made

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _verified(self, data: bytes) -> list[tuple[Receipt, str]]:
        """Return the receipts with the digests of their lines."""
        if len(data) > MAX_TRAIL_BYTES:
            raise IntegrityError(f"The audit trail {self.path} has over {MAX_TRAIL_BYTES} bytes; it is not ours")
        found: list[tuple[Receipt, str]] = []
        for n, line in enumerate(data.split(b"\n")[:-1], start=1):
            receipt = self._receipt(line, n)
            if receipt.n != n or receipt.previous != (found[-1][1] if found else None):
                raise IntegrityError(
                    f"Line {n} of the audit trail {self.path} does not follow the line before it: lines were "
                    "removed, moved or replaced. Restore the trail from a backup"
                )
            found.append((receipt, hashlib.sha256(line).hexdigest()))
        end = self._ring.trail
        if end is not None and (len(found) < end.n or found[end.n - 1][1] != end.digest):
            raise IntegrityError(
                f"The audit trail {self.path} ends at line {len(found)} or differs at line {end.n}, which the key "
                "ring remembers: it was cut or replaced. Restore the trail from a backup"
            )
        return found

    def _receipt(self, line: bytes, n: int) -> Receipt:
        name = f"Line {n} of the audit trail {self.path}"
        payload, key_id = verify(line, RECEIPT_TYPE, self._ring.trusted, name=name)
        try:
            receipt = Receipt.model_validate(parse_json(payload, MAX_SIGNED_BYTES, name=name))
        except ValidationError:
            raise IntegrityError(f"{name} is no receipt of this format") from None
        if receipt.publisher != key_id:
            raise IntegrityError(f"{name} names another publisher than the one who signed it")
        return receipt
