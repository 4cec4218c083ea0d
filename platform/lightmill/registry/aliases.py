"""Aliases: movable names, each a signed log whose newest entry counts."""

from __future__ import annotations

import secrets

from lightmill.errors import ConflictError, NotFoundError
from lightmill.records.assets import AliasEntry, AliasMove
from lightmill.records.base import now_iso
from lightmill.records.references import AssetKind, VersionId
from lightmill.registry import names
from lightmill.registry.marks import Marks, alias_stream
from lightmill.registry.signed import SignedLog
from lightmill.storage import BlobStore
from lightmill.vault import KeyRing

Current = tuple[AliasEntry, str]


class Aliases:
    """Reads and moves aliases of one workspace; knows nothing of the catalog but its marks."""

    def __init__(
        self, store: BlobStore, keyring: KeyRing, workspace: str, store_id: str, log: SignedLog, marks: Marks
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._workspace = workspace
        self._store_id = store_id
        self._log = log
        self._marks = marks

    def names(self, mid: str) -> list[str]:
        """Return the names of an asset's aliases."""
        prefix = names.aliases_prefix(mid)
        return sorted({entry[len(prefix) :].split("/", 1)[0] for entry in self._store.list(prefix)})

    def entry(self, kind: AssetKind, name: str, mid: str, alias: str) -> AliasEntry:
        """Return the newest entry of an alias.

        Raises:
            NotFoundError: There is no such alias; the message lists those there are.
            IntegrityError: An entry is not what was written, or the newest ones are hidden.
        """
        n = self._last(mid, name, alias)
        if not n:
            there = ", ".join(self.names(mid)) or "none"
            raise NotFoundError(
                f"{kind.capitalize()} {name!r} has no alias {alias!r} (aliases: {there}). "
                f"Set it with `lightmill {kind}s alias {name} {alias} VERSION`."
            )
        return self._log.alias(mid, alias, n, what=f"{name}@{alias}")[0]

    def history(self, kind: AssetKind, name: str, mid: str, alias: str) -> list[AliasMove]:
        """Return every move of an alias, oldest first; errors as `entry`."""
        self.entry(kind, name, mid, alias)
        moves: list[AliasMove] = []
        for n in range(1, self._last(mid, name, alias) + 1):
            entry, _ = self._log.alias(mid, alias, n, what=f"{name}@{alias}")
            moves.append(
                AliasMove(
                    alias=alias,
                    n=n,
                    at=entry.created,
                    source=moves[-1].target if moves else 0,
                    target=entry.seq,
                    publisher=entry.publisher,
                )
            )
        return moves

    def move(self, mid: str, alias: str, target: VersionId, expect: int | None) -> Current:
        """Point an alias at a version; return the entry and its digest. See `Registry.set_alias` for the errors."""
        name, seq = target.name, target.seq
        n = self._last(mid, name, alias)
        current = self._log.alias(mid, alias, n, what=f"{name}@{alias}") if n else None
        points_at = current[0].seq if current else 0
        if expect is not None and points_at != expect:
            raise ConflictError(
                f"Alias {alias!r} of {name} points at version {points_at}, not {expect}; look again, then repeat."
            )
        if current and points_at == seq:
            return current
        entry = AliasEntry(
            store=self._store_id,
            workspace=self._workspace,
            mid=mid,
            alias=alias,
            n=n + 1,
            parent=current[1] if current else None,
            seq=seq,
            record=target.digest,
            created=now_iso(),
            publisher=self._keyring.signer.key_id,
            nonce=secrets.token_hex(16),
        )
        digest = self._log.append_alias(entry)
        if digest is None:
            raise ConflictError(f"Alias {alias!r} of {name} was moved by somebody else just now; repeat.")
        return entry, digest

    def _last(self, mid: str, name: str, alias: str) -> int:
        mark = self._marks.seen(mid, alias_stream(alias))
        n = self._log.last(names.alias_prefix(mid, alias))
        what = f"alias {name}@{alias}"
        return self._marks.check(mark, mid, n, what, lambda mid, n: names.alias_name(mid, alias, n))


def former_target(moves: list[AliasMove], to: int | None) -> int:
    """Return where a rollback moves an alias: to `to`, else to the version before the present one.

    Raises:
        NotFoundError: The alias never pointed elsewhere, or never at `to`.
    """
    present = moves[-1]
    before = [move.target for move in moves[:-1] if move.target != present.target]
    if to is None and before:
        return present.source
    if to is not None and (to in before or to == present.target):
        return to
    there = ", ".join(str(seq) for seq in dict.fromkeys(before)) or "nowhere else"
    wanted = "anywhere else" if to is None else f"at version {to}"
    raise NotFoundError(f"Alias {present.alias!r} never pointed {wanted} before; it pointed at: {there}.")
