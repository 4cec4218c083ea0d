"""What is said of versions: one signed, hash-chained log an asset, its contents sealed under the version's key."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from pydantic import ValidationError

from lightmill.errors import ConflictError, IntegrityError
from lightmill.records.annotations import CHANGE, Annotation, Change
from lightmill.records.base import now_iso
from lightmill.records.references import VersionId
from lightmill.registry import names
from lightmill.registry.marks import ANNOTATIONS, Marks
from lightmill.registry.signed import SignedLog
from lightmill.vault import (
    BlobContext,
    KeyRing,
    canonical_json,
    decode_base64,
    encode_base64,
    open_blob,
    parse_json,
    seal_blob,
)

CHANGE_MAX_BYTES = 1 << 20
ATTEMPTS = 100


class Annotations:
    """Reads and appends annotations of one workspace."""

    def __init__(self, keyring: KeyRing, workspace: str, store_id: str, log: SignedLog, marks: Marks) -> None:
        self._keyring = keyring
        self._workspace = workspace
        self._store_id = store_id
        self._log = log
        self._marks = marks

    def last(self, mid: str, what: str) -> int:
        """Return the number of the newest entry, 0 when there is none.

        Raises:
            IntegrityError: The store ends earlier than was seen before, or its history was rewritten.
        """
        mark = self._marks.seen(mid, ANNOTATIONS)
        n = self._log.last(names.annotations_prefix(mid))
        return self._marks.check(mark, mid, n, f"the annotations of {what}", names.annotation_name)

    def entries(self, mid: str, first: int, what: str) -> Iterator[tuple[Annotation, str]]:
        """Yield the entries from number `first` on, verified, with their digests.

        Raises:
            IntegrityError: One is not what was written or is missing, or the newest ones are hidden.
        """
        yield from self._log.annotations(mid, first, self.last(mid, what), what=what)

    def append(self, mid: str, id: VersionId, key: bytes, change: Change) -> Annotation:
        """Sign and store what is said of a version; entries of others that come between do no harm.

        Raises:
            IntegrityError: The log is not what was written; nothing is written on top of it.
            ConflictError: Others won the next number a hundred times in a row.
        """
        plaintext = canonical_json(change.model_dump(mode="json"))
        for _ in range(ATTEMPTS):
            n = self.last(mid, str(id))
            parent = next((digest for _, digest in self._log.annotations(mid, n, n, what=id.name)), None) if n else None
            entry = Annotation(
                store=self._store_id,
                workspace=self._workspace,
                mid=mid,
                n=n + 1,
                parent=parent,
                seq=id.seq,
                record=id.digest,
                sealed=encode_base64(bytes(seal_blob(plaintext, key, self._context(mid, id.seq, n + 1)))),
                created=now_iso(),
                publisher=self._keyring.signer.key_id,
                nonce=secrets.token_hex(16),
            )
            if self._log.append_annotation(entry):
                return entry
        raise ConflictError(f"{id.name} is annotated by too many others at once; nothing was said. Try again.")

    def unseal(self, entry: Annotation, key: bytes) -> Change:
        """Return what an entry says.

        Raises:
            IntegrityError: It is not what was written.
        """
        name = names.annotation_name(entry.mid, entry.n)
        sealed = decode_base64(entry.sealed, name=name)
        plaintext = open_blob(sealed, key, self._context(entry.mid, entry.seq, entry.n), name=name)
        try:
            return CHANGE.validate_python(parse_json(plaintext, CHANGE_MAX_BYTES, name=name))
        except ValidationError:
            raise IntegrityError(f"Object {name} says nothing that this version of Lightmill understands.") from None

    def _context(self, mid: str, seq: int, n: int) -> BlobContext:
        return BlobContext.for_annotation(self._store_id, self._workspace, mid, seq, n)
