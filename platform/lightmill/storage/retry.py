"""Asking a store again, by a pure policy and a wrapper that carries it out.

Only UnavailableError is worth another attempt: a request that was wrong stays wrong, and damaged bytes must be
loud.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from lightmill.errors import ConflictError, NotFoundError, UnavailableError
from lightmill.storage.port import BlobStore, check_prefix
from lightmill.storage.requests import RequestMeter, StoreRequests

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS 2015).

    After the n-th failure, n = 1, 2, ...:

        pause = chance * min(longest_s, first_s * 2 ** (n - 1)),    chance uniform in [0, 1)

    With the defaults the pauses are at most 0.1, 0.2, 0.4, 0.8, 1.6, 3.2 and 5.0 seconds, on average half of that:
    8 attempts with up to 11.3 s, on average 5.65 s, between them. No attempt starts later than `deadline_s` after the
    first one.
    """

    attempts: int = 8
    first_s: float = 0.1
    longest_s: float = 5.0
    deadline_s: float = 120.0

    def ceiling_s(self, failures: int) -> float:
        """Return the longest pause after this many failures, in seconds."""
        return min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 60))

    def pause_s(self, failures: int, elapsed_s: float, chance: float) -> float | None:
        """Return how long to wait before the next attempt, in seconds, or None to give up.

        Args:
            failures: Attempts that failed so far, at least 1.
            elapsed_s: Seconds since the first attempt began.
            chance: A number in [0, 1).
        """
        if failures >= self.attempts:
            return None
        pause = chance * self.ceiling_s(failures)
        return pause if elapsed_s + pause <= self.deadline_s else None


class RetryingStore(BlobStore):
    """Passes everything on to `inner` and repeats what fails with UnavailableError, as the policy says.

    `create` is repeated too. When an attempt failed and a later one finds that the name exists, the object is
    fetched: if it holds our bytes, it is ours, made by the attempt whose answer was lost. A writer who must not
    take another's equal bytes for its own puts a nonce into them.

    Args:
        inner: The store that is asked.
        policy: When to try again.
        clock: Seconds on a clock that never goes back.
        sleep: Waits for so many seconds.
        chance: Gives a number in [0, 1) per pause.
        meter: Counts the retries; an adapter that counts requests shares its own.
    """

    def __init__(
        self,
        inner: BlobStore,
        policy: RetryPolicy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
        meter: RequestMeter | None = None,
    ) -> None:
        self._inner = inner
        self._policy = policy or RetryPolicy()
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        self._meter = meter or RequestMeter()

    def __repr__(self) -> str:
        return f"RetryingStore({self._inner!r})"

    @property
    def url(self) -> str:
        """The URL of the inner store."""
        return self._inner.url

    @property
    def requests(self) -> StoreRequests:
        """What was sent, received and repeated so far."""
        return self._meter.snapshot()

    def create(self, name: str, data: Buffer) -> None:
        """Make an object; see the port. An earlier attempt of this call that got through counts as success."""
        pauses = _Pauses(self)
        failed = False
        while True:
            try:
                return self._inner.create(name, data)
            except UnavailableError as exc:
                failed = True
                pauses.wait(exc)
            except ConflictError:
                ours = self._holds(name, data) if failed else False
                if ours:
                    return None
                if ours is False:
                    raise
                pauses.wait(UnavailableError(f"{name} is made and removed by somebody at {self.url}"))

    def get(self, name: str) -> bytes:
        """Return the whole object; see the port."""
        return self._repeat(lambda: self._inner.get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return a part of the object; see the port."""
        return self._repeat(lambda: self._inner.get_range(name, offset, length))

    def get_view(self, name: str, offset: int, length: int) -> memoryview:
        """Return a part of the object; see the port."""
        return self._repeat(lambda: self._inner.get_view(name, offset, length))

    def read_into(self, name: str, offset: int, out: memoryview) -> None:
        """Fill a buffer; see the port."""
        self._repeat(lambda: self._inner.read_into(name, offset, out))

    def head(self, name: str) -> int:
        """Return the size; see the port."""
        return self._repeat(lambda: self._inner.head(name))

    def list(self, prefix: str) -> Iterator[str]:
        """Yield names; see the port. A listing that breaks off is begun again behind the last name it gave."""
        return self._list(check_prefix(prefix))

    def delete(self, name: str) -> None:
        """Remove the object; see the port."""
        self._repeat(lambda: self._inner.delete(name))

    def _list(self, prefix: str) -> Iterator[str]:
        pauses = _Pauses(self)
        last = ""
        while True:
            try:
                for name in self._inner.list(prefix):
                    if name > last:  # sorted, so what was given before comes first
                        yield name
                        last = name
                return
            except UnavailableError as exc:
                pauses.wait(exc)

    def _holds(self, name: str, data: Buffer) -> bool | None:
        """Whether the stored object is these bytes, asked with retries of its own; None when it vanished meanwhile."""
        view = memoryview(data)
        try:
            if self.head(name) != view.nbytes:
                return False
            return memoryview(self.get(name)) == (view.cast("B") if view.nbytes else b"")
        except NotFoundError:
            return None

    def _repeat(self, call: Callable[[], T]) -> T:
        pauses = _Pauses(self)
        while True:
            try:
                return call()
            except UnavailableError as exc:
                pauses.wait(exc)


class _Pauses:
    """The failures of one call so far, and the pause after each."""

    def __init__(self, store: RetryingStore) -> None:
        self._store = store
        self._began = store._clock()
        self._failures = 0

    def wait(self, error: UnavailableError) -> None:
        """Wait before the next attempt, or raise the error when there is none."""
        store = self._store
        self._failures += 1
        elapsed = store._clock() - self._began
        pause = store._policy.pause_s(self._failures, elapsed, store._chance())
        if pause is None:
            raise UnavailableError(
                f"{error.message} (gave up after {self._failures} attempts in {elapsed:.1f} s)"
            ) from error
        store._meter.retried()
        store._sleep(pause)
