"""A store that fails on purpose, the same way every time: by a script, or by a seed.

Faults that the port allows, and which a caller must survive: `slow`, `before` (UnavailableError, nothing done),
`lost` (done, and then UnavailableError), `half` (a read that breaks off with UnavailableError, the buffer half
full). Faults that the port forbids, and which a caller must notice: `short` (data that ends early and says
nothing) and `stale` (a listing without the newest names).
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

from lightmill.errors import UnavailableError
from lightmill.storage import BlobStore

if TYPE_CHECKING:
    from typing_extensions import Buffer

Fault = Literal["", "slow", "before", "lost", "half", "short", "stale"]
Plan = Callable[[str, str, int], Fault]
"""(operation, name or prefix, how many such calls came before) -> what goes wrong; "" is nothing."""

SURVIVABLE: tuple[Fault, ...] = ("slow", "before", "lost", "half")


class FaultyStore(BlobStore):
    """Passes everything on to `inner` and fails as `plan` says.

    Args:
        inner: The store that works.
        plan: What goes wrong; see `scripted` and `seeded`.
        sleep: Is called with the delay in seconds by `slow`.
        newest: How many of the names that were created last a stale listing lacks.
    """

    def __init__(
        self, inner: BlobStore, plan: Plan, *, sleep: Callable[[float], None] = lambda _: None, newest: int = 1
    ) -> None:
        self.inner = inner
        self.log: list[tuple[str, str, Fault]] = []
        self._plan = plan
        self._sleep = sleep
        self._newest = newest
        self._calls: Counter[tuple[str, str]] = Counter()
        self._created: list[str] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def faults(self) -> Counter[str]:
        """How often each fault came."""
        return Counter(fault for _, _, fault in self.log if fault)

    def create(self, name: str, data: Buffer) -> None:
        self._do("create", name, lambda fault: self._create(name, data))

    def get(self, name: str) -> bytes:
        def read(fault: Fault) -> bytes:
            data = self.inner.get(name)
            return data[: len(data) // 2] if fault == "short" else data

        return self._do("get", name, read)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        def read(fault: Fault) -> bytes:
            data = self.inner.get_range(name, offset, length)
            return data[: len(data) // 2] if fault == "short" else data

        return self._do("get_range", name, read)

    def read_into(self, name: str, offset: int, out: memoryview) -> None:
        def read(fault: Fault) -> None:
            part = out
            if fault in ("half", "short") and out.nbytes:
                part = out.cast("B")[: out.nbytes // 2]
            self.inner.read_into(name, offset, part)

        self._do("read_into", name, read)

    def head(self, name: str) -> int:
        return self._do("head", name, lambda fault: self.inner.head(name))

    def list(self, prefix: str) -> Iterator[str]:
        def read(fault: Fault) -> list[str]:
            hidden = set(self._created[-self._newest :]) if fault == "stale" else set()
            return [name for name in self.inner.list(prefix) if name not in hidden]

        found = self._do("list", prefix, read)
        return iter(found)

    def delete(self, name: str) -> None:
        self._do("delete", name, lambda fault: self.inner.delete(name))

    def _create(self, name: str, data: Buffer) -> None:
        self.inner.create(name, data)
        with self._lock:
            self._created.append(name)

    def _do(self, operation: str, name: str, call: Callable[[Fault], Any]) -> Any:
        with self._lock:
            before = self._calls[operation, name]
            self._calls[operation, name] += 1
            fault = self._plan(operation, name, before)
            self.log.append((operation, name, fault))
        if fault == "slow":
            self._sleep(5.0)
        if fault == "before":
            raise UnavailableError(f"The store went away before {operation} {name}")
        result = call(fault)
        if fault in ("lost", "half"):
            raise UnavailableError(f"The answer to {operation} {name} was lost")
        return result


def scripted(faults: Iterable[Fault], operation: str = "") -> Plan:
    """The faults in this order, one per call (of one operation, if it is named), then none."""
    waiting = iter(list(faults))

    def plan(called: str, name: str, before: int) -> Fault:
        return next(waiting, "") if operation in ("", called) else ""

    return plan


def seeded(
    seed: int, rate: float = 0.5, kinds: tuple[Fault, ...] = SURVIVABLE, in_a_row: int = 3, operation: str = ""
) -> Plan:
    """Faults that depend on the seed, the call and its number alone, not on the order of threads.

    After `in_a_row` failures of one call the next one works, so that a bounded number of attempts is enough.
    """
    assert set(kinds) <= set(get_args(Fault))

    def plan(called: str, name: str, before: int) -> Fault:
        if operation not in ("", called) or before % (in_a_row + 1) == in_a_row:
            return ""
        digest = hashlib.sha256(f"{seed}|{called}|{name}|{before}".encode()).digest()
        if digest[0] >= rate * 256:
            return ""
        return kinds[digest[1] % len(kinds)]

    return plan
