"""Actors on one store, one store call at a time, in an order that a seed decides; on a clock of its own."""

from __future__ import annotations

import random
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from lightmill.errors import ConflictError
from lightmill.records.assets import Tombstone
from lightmill.records.base import now_iso
from lightmill.records.references import AssetKind, VersionId
from lightmill.registry import Content, Registry
from lightmill.registry.names import tombstone_name
from lightmill.storage import BlobStore, MemoryStore
from lightmill.vault import TOMBSTONE_TYPE, KeyRing, canonical_json

if TYPE_CHECKING:
    from typing_extensions import Buffer

RUN = AssetKind.RUN


class Crash(BaseException):
    """The process ends here: nothing catches this, and the store answers it no more."""


class Clock:
    """A clock that stands still until somebody moves it."""

    def __init__(self) -> None:
        self.time = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> str:
        return self.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def pass_hours(self, hours: float) -> None:
        self.time += timedelta(hours=hours)


class Hooked(BlobStore):
    """Passes every call on, after telling `hook` its method and name."""

    def __init__(self, inner: BlobStore, hook: Callable[[str, str], None]) -> None:
        self.inner = inner
        self.hook = hook

    @property
    def url(self) -> str:
        return self.inner.url

    def create(self, name: str, data: Buffer) -> None:
        self.hook("create", name)
        self.inner.create(name, data)

    def get(self, name: str) -> bytes:
        self.hook("get", name)
        return self.inner.get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self.hook("get_range", name)
        return self.inner.get_range(name, offset, length)

    def read_into(self, name: str, offset: int, out: memoryview) -> None:
        self.hook("read_into", name)
        self.inner.read_into(name, offset, out)

    def head(self, name: str) -> int:
        self.hook("head", name)
        return self.inner.head(name)

    def list(self, prefix: str) -> Iterator[str]:
        self.hook("list", prefix)
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        self.hook("delete", name)
        self.inner.delete(name)


class CrashAt:
    """A hook that ends the process at the n-th call, and at every one after it."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.calls = 0
        self.crashed = ""

    def __call__(self, method: str, name: str) -> None:
        self.calls += 1
        if self.calls >= self.n:
            self.crashed = self.crashed or f"{method} {name}"
            raise Crash(self.crashed)


class Stage:
    """Runs actors, each in a thread, of which exactly one moves at a time."""

    def __init__(self, seed: int, store: MemoryStore) -> None:
        self.random = random.Random(seed)
        self.store = store
        self.steps = 0
        self.errors: list[BaseException] = []
        self._actors: dict[threading.Thread, threading.Semaphore] = {}
        self._back = threading.Semaphore(0)
        self._doomed: set[threading.Thread] = set()

    def enter(self, act: Callable[[BlobStore], None], *, dies_at: int | None = None) -> None:
        """Add an actor; one that dies ends without a word at its n-th store call."""
        calls = 0

        def wait(method: str, name: str) -> None:
            nonlocal calls
            me = threading.current_thread()
            if me not in self._actors:
                return
            calls += 1
            self._back.release()
            self._actors[me].acquire()
            if dies_at is not None and calls >= dies_at:
                raise Crash

        def live() -> None:
            self._actors[threading.current_thread()].acquire()
            try:
                act(Hooked(self.store, wait))
            except Crash:
                pass
            except BaseException as exc:  # noqa: BLE001 - the test raises it
                self.errors.append(exc)
            finally:
                del self._actors[threading.current_thread()]
                self._back.release()

        thread = threading.Thread(target=live, daemon=True)
        self._actors[thread] = threading.Semaphore(0)
        thread.start()

    def play(self) -> None:
        """Move actors in random order until all have ended."""
        while self._actors:
            actor = self.random.choice(list(self._actors.values()))
            self.steps += 1
            actor.release()
            self._back.acquire()
        if self.errors:
            raise self.errors[0]


def files(n: int, size: int = 40) -> dict[str, bytes]:
    return {"weights.bin": b"%08d" % n * (size // 8), "notes.txt": b"version %d" % n}


def publish(registry: Registry, name: str, contents: dict[str, bytes]) -> str:
    """Publish files as a version of a run and return its digest."""
    draft = registry.begin(RUN, name)
    sealed = draft.seal_files(contents)
    return registry.commit(draft, Content(files=sealed.files, blobs=sealed.blobs)).id.digest


def bury(store: BlobStore, ring: KeyRing, store_id: str, id: VersionId) -> None:
    """Delete a version by signing its tombstone, whatever points at it."""
    tombstone = Tombstone(
        store=store_id,
        workspace="default",
        mid=ring.asset_id("default", id.kind, id.name),
        seq=id.seq,
        record=id.digest,
        created=now_iso(),
        publisher=ring.signer.key_id,
        nonce=secrets.token_hex(16),
        reason="a test",
    )
    signed = ring.signer.sign(canonical_json(tombstone.model_dump(mode="json")), TOMBSTONE_TYPE)
    with suppress(ConflictError):
        store.create(tombstone_name(tombstone.mid, id.seq), signed)
