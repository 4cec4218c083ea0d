"""The control plane's side of access: makes and rotates keys, and sends every change to all replicas at once."""

from __future__ import annotations

import builtins
import logging
import threading
import time
from collections.abc import Callable

from lightmill.access import Identifier, mint_key, rotate_key
from lightmill.access.jwks import IssuerBook
from lightmill.catalog import Catalog
from lightmill.errors import ConflictError, LightmillError, NotFoundError, RequestError
from lightmill.records.access import ADMIN
from lightmill.records.base import iso_of, seconds_of
from lightmill.records.endpoints import ApiKey
from lightmill.records.keys import AccessSet, KeyRequest, KeySummary, MintedKey
from lightmill.serving.access_feed import MARK_KEY, write_access
from lightmill.serving.board import Board

PUBLISH_S = 0.5
logger = logging.getLogger("lightmill.control")


class AccessPublisher:
    """Reads the keys from the catalog every `PUBLISH_S` and writes them to the board when they changed.

    Its own thread does so, since a round of the reconcile loop may take long. With the replicas' poll a revocation
    takes at most `PUBLISH_S` and `access_feed.POLL_S`, and what reading the catalog and two writes take.
    """

    def __init__(self, catalog: Catalog, board: Board, issuers: IssuerBook) -> None:
        self._catalog = catalog
        self._board = board
        self._issuers = issuers
        self._written: tuple[AccessSet, bytes] | None = None
        self._wake = threading.Event()
        self._lock = threading.Lock()

    def wake(self) -> None:
        """Look now: something was changed."""
        self._wake.set()

    def step(self) -> bool:
        """Write the set if it changed, or if the board lost it; return whether it was written."""
        with self._lock:
            access = self._access()
            if self._written and self._written[0] == access and self._board.get(MARK_KEY) == self._written[1]:
                return False
            self._written = (access, write_access(self._board, access))
            return True

    def _access(self) -> AccessSet:
        keys = tuple(
            key.model_copy(update={"last_used": None}) for key in self._catalog.keys.list() if key.revoked is None
        )
        replicas = {found.name: found.replicas for found in self._catalog.endpoints.list() if found.replicas > 1}
        return AccessSet(keys=keys, issuers=self._issuers.trusted(), replicas=replicas)

    def run(self, stop: threading.Event) -> None:
        """Repeat until `stop` is set; an error is logged and the next round tries again."""
        while not stop.is_set():
            try:
                self.step()
            except LightmillError as exc:
                logger.error("the keys could not be sent to the replicas: %s", exc)
            self._wake.wait(PUBLISH_S)
            self._wake.clear()


class KeyService:
    """The operations on API keys."""

    def __init__(self, catalog: Catalog, changed: Callable[[], None], *, wall: Callable[[], float] = time.time) -> None:
        """Prepare; `changed` is told after every change."""
        self._keys = catalog.keys
        self._changed = changed
        self._wall = wall

    def create(self, request: KeyRequest) -> MintedKey:
        """Make a key.

        Raises:
            RequestError: It would be expired already.
        """
        if request.expires is not None and seconds_of(request.expires) <= self._wall():
            raise RequestError(f"expires is {request.expires}, which has passed; give a time to come.")
        text, key = mint_key(request.name, scopes=request.scopes, expires=request.expires, limits=request.limits)
        self._keys.add(key)
        self._changed()
        return self._minted(text, key)

    def list(self) -> builtins.list[KeySummary]:
        """Return all keys, oldest first, without anything of their secrets."""
        now = iso_of(self._wall())
        return [KeySummary.of(key, now) for key in self._keys.list()]

    def rotate(self, id: str, overlap_s: float) -> MintedKey:
        """Give a key a new secret; the old one stays good for `overlap_s` seconds.

        Raises:
            NotFoundError: There is no such key.
            ConflictError: It is revoked or expired, or somebody else rotates it at this moment.
        """
        key, now = self._found(id), self._wall()
        if key.revoked is not None or (key.expires is not None and seconds_of(key.expires) <= now):
            raise ConflictError(f"The API key {key.prefix} ({key.name}) is no longer good; mint another one.")
        text, rotated = rotate_key(key, overlap_s, now=now)
        self._keys.replace_secret(key, rotated)
        self._changed()
        return self._minted(text, rotated)

    def revoke(self, id: str) -> KeySummary:
        """Revoke a key; one that is revoked already keeps its first time.

        Raises:
            NotFoundError: There is no such key.
            ConflictError: No other key opens the control API for good: nobody could make the next one.
        """
        key = self._found(id)
        if self._is_lasting_admin(key) and not any(
            self._is_lasting_admin(other) for other in self._keys.list() if other.id != key.id
        ):
            raise ConflictError(
                f"{key.prefix} ({key.name}) is the last key with the scope admin that does not expire; make another "
                "first: lightmill api-keys create NAME --scope admin."
            )
        self._keys.revoke(key.id, iso_of(self._wall()))
        self._changed()
        return KeySummary.of(self._found(id), iso_of(self._wall()))

    @staticmethod
    def _is_lasting_admin(key: ApiKey) -> bool:
        return key.revoked is None and key.expires is None and ADMIN in key.scopes

    def _found(self, id: str) -> ApiKey:
        """Return a key by its id or its prefix, `lm_<id>`."""
        key = self._keys.by_id(id.removeprefix("lm_"))
        if key is None:
            known = ", ".join(f"{key.prefix} ({key.name})" for key in self._keys.list()[:20]) or "none"
            raise NotFoundError(f"There is no API key of this id; there are: {known}.")
        return key

    def _minted(self, text: str, key: ApiKey) -> MintedKey:
        return MintedKey(key=text, summary=KeySummary.of(key, iso_of(self._wall())))


def identifier_of(catalog: Catalog, issuers: IssuerBook) -> Identifier:
    """Return who finds out who asks the control plane, by the keys of this moment."""
    return Identifier(catalog.keys.list(), issuers.trusted())
