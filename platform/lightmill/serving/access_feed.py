"""Changes of keys on their way to every replica, within two seconds.

The control plane writes the whole set of keys to one place, and each replica looks there every `POLL_S`: at a short
mark first, and at the set only when the mark changed. So a revocation takes at most one round of the control plane's
publisher (none when it came through the API, which wakes it) and one poll, whatever else either is busy with: neither
waits for a round of the reconcile loop, which deploys and heals.

The place is Ray's own key-value table, kept by its head: no process more, and it reaches every node. Serve's
`user_config` gives a replica its first keys, so that it can answer before it has looked.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from lightmill.errors import LightmillError, UnavailableError
from lightmill.records.keys import AccessSet

POLL_S = 0.5
MARK_KEY, SET_KEY = b"lightmill/access/mark", b"lightmill/access/set"
logger = logging.getLogger("lightmill.serving")


class AccessFeed(ABC):
    """A place that holds the newest set of keys. Every method may be repeated after `UnavailableError`."""

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """Return what was put last; None if nothing was, or it was lost.

        Raises:
            UnavailableError: The place does not answer.
        """

    @abstractmethod
    def put(self, key: bytes, value: bytes) -> None:
        """Replace what is there.

        Raises:
            UnavailableError: The place does not answer.
        """


class MemoryFeed(AccessFeed):
    """A feed inside one process."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        """Return what was put."""
        return self._values.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """Keep a value."""
        self._values[key] = value


class RayFeed(AccessFeed):
    """Ray's key-value table; a table of its own among those that Ray and Serve keep there."""

    NAMESPACE = b"lightmill"

    def get(self, key: bytes) -> bytes | None:
        """Ask Ray's head."""
        from ray.experimental.internal_kv import _internal_kv_get

        try:
            return _internal_kv_get(key, namespace=self.NAMESPACE)
        except Exception as exc:
            raise UnavailableError(f"Ray's head does not answer: {exc}.") from exc

    def put(self, key: bytes, value: bytes) -> None:
        """Tell Ray's head."""
        from ray.experimental.internal_kv import _internal_kv_put

        try:
            _internal_kv_put(key, value, overwrite=True, namespace=self.NAMESPACE)
        except Exception as exc:
            raise UnavailableError(f"Ray's head does not answer: {exc}.") from exc


def mark_of(data: bytes) -> bytes:
    """Return the mark of a set: it differs when the set does."""
    return hashlib.sha256(data).hexdigest().encode()


def write_access(feed: AccessFeed, access: AccessSet) -> bytes:
    """Write a set, then its mark; return the mark."""
    data = access.model_dump_json().encode()
    mark = mark_of(data)
    feed.put(SET_KEY, data)
    feed.put(MARK_KEY, mark)
    return mark


class AccessWatcher:
    """A replica's side: hands every new set to `apply`. What it cannot read or use leaves the set of before."""

    def __init__(self, feed: AccessFeed, apply: Callable[[AccessSet], None]) -> None:
        self._feed = feed
        self._apply = apply
        self._mark: bytes | None = None
        self._warned = False

    @property
    def following(self) -> bool:
        """Whether a set came this way; from then on no other source of keys counts."""
        return self._mark is not None

    def step(self) -> bool:
        """Look once; return whether another set was applied."""
        try:
            mark = self._feed.get(MARK_KEY)
            if mark is None or mark == self._mark:
                return False
            data = self._feed.get(SET_KEY)
            if data is None or mark_of(data) != mark:
                return False  # written between the two looks; the next one sees both
            self._apply(AccessSet.model_validate_json(data))
        except (LightmillError, ValueError) as exc:
            if not self._warned:
                logger.error("the keys cannot be renewed, those of before stay: %s", exc)
            self._warned = True
            return False
        self._mark, self._warned = mark, False
        return True

    def run(self, stop: threading.Event) -> None:
        """Look until `stop` is set."""
        while not stop.wait(POLL_S):
            self.step()


def follow_access(apply: Callable[[AccessSet], None], feed: AccessFeed | None = None) -> AccessWatcher:
    """Look once at Ray's table, then go on in a thread that ends with the process; return the watcher."""
    watcher = AccessWatcher(feed or RayFeed(), apply)
    watcher.step()
    threading.Thread(target=watcher.run, args=(threading.Event(),), name="access-watcher", daemon=True).start()
    return watcher
