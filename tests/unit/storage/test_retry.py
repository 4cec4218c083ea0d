"""The retry policy, decision by decision, and the wrapper on virtual time."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import ConflictError, IntegrityError, NotFoundError, RequestError, UnavailableError
from lightmill.storage import BlobStore, MemoryStore, RetryingStore, RetryPolicy
from tests.faulty import Fault, FaultyStore, Plan, scripted, seeded


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def retrying(inner: BlobStore, time: Time | None = None, chance: float = 0.5, **policy: float) -> RetryingStore:
    time = time or Time()
    return RetryingStore(
        inner, RetryPolicy(**policy), clock=time.clock, sleep=time.sleep, chance=lambda: chance  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_default_series_is_the_one_of_the_docstring() -> None:
    policy = RetryPolicy()
    ceilings = [policy.ceiling_s(n) for n in range(1, policy.attempts)]
    assert ceilings == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert sum(ceilings) == pytest.approx(11.3)
    assert policy.pause_s(policy.attempts, 0.0, 0.0) is None


@given(
    failures=st.integers(1, 2000),
    elapsed=st.floats(0, 1e4),
    chance=st.floats(0, 1, exclude_max=True),
    attempts=st.integers(1, 100),
)
def test_a_pause_lies_below_its_ceiling_and_before_the_deadline(
    failures: int, elapsed: float, chance: float, attempts: int
) -> None:
    policy = RetryPolicy(attempts=attempts)
    pause = policy.pause_s(failures, elapsed, chance)
    if pause is None:
        assert failures >= attempts or elapsed + policy.longest_s > policy.deadline_s
    else:
        assert failures < attempts and 0 <= pause <= policy.ceiling_s(failures) <= policy.longest_s
        assert elapsed + pause <= policy.deadline_s


def test_attempts_and_pauses_are_bounded() -> None:
    time, inner = Time(), FaultyStore(MemoryStore(), scripted(["before"] * 100))
    with pytest.raises(UnavailableError, match=r"before get a \(gave up after 8 attempts in 5\.7 s\)") as caught:
        retrying(inner, time).get("a")
    assert len(inner.log) == 8
    assert time.slept == [ceiling / 2 for ceiling in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)]
    assert isinstance(caught.value.__cause__, UnavailableError)


def test_no_attempt_starts_after_the_deadline() -> None:
    time = Time()

    class Slow(MemoryStore):
        def get(self, name: str) -> bytes:
            time.now += 50.0
            raise UnavailableError("no answer")

    with pytest.raises(UnavailableError, match=r"gave up after 3 attempts in 150\.\d s"):
        retrying(Slow(), time).get("a")


def test_a_store_that_works_again_is_not_waited_for_longer() -> None:
    time, inner = Time(), FaultyStore(MemoryStore(), scripted(["before", "lost", "before"], "head"))
    store = retrying(inner, time)
    store.create("a", b"x")
    assert store.head("a") == 1 and len(time.slept) == 3
    assert store.requests.retries == 3


@pytest.mark.parametrize("error", [NotFoundError, ConflictError, RequestError, IntegrityError])
def test_only_the_unavailable_is_asked_again(error: type[Exception]) -> None:
    class Failing(MemoryStore):
        calls = 0

        def get(self, name: str) -> bytes:
            self.calls += 1
            raise error("as it is")

        def create(self, name: str, data: object) -> None:
            self.get(name)

    inner = Failing()
    store = retrying(inner)
    for call in (lambda: store.get("a"), lambda: store.create("a", b"x")):
        with pytest.raises(error, match="^as it is$"):
            call()
    assert inner.calls == 2


def lost_create(script: list[Fault]) -> tuple[MemoryStore, FaultyStore, RetryingStore]:
    memory = MemoryStore()
    faulty = FaultyStore(memory, scripted(script))
    return memory, faulty, retrying(faulty)


def test_a_create_whose_answer_was_lost_is_ours() -> None:
    for script in (["lost"], ["before", "lost"], ["lost", "lost", "before"]):
        memory, faulty, store = lost_create(script)  # type: ignore[arg-type]
        store.create("a", memoryview(b"12345678").cast("i"))
        assert memory.get("a") == b"12345678"
        assert [name for _, name, _ in faulty.log] == ["a"] * len(faulty.log)
    memory, faulty, store = lost_create(["lost"])
    store.create("empty", b"")
    assert memory.get("empty") == b""


@pytest.mark.parametrize("theirs", [b"other", b"mine", b""])
def test_an_exists_without_a_lost_attempt_is_a_conflict_at_once(theirs: bytes) -> None:
    memory, faulty, store = lost_create([])
    memory.create("a", theirs)
    with pytest.raises(ConflictError):
        store.create("a", b"mine")
    assert [operation for operation, _, _ in faulty.log] == ["create"]


@pytest.mark.parametrize("theirs", [b"tale", b"mine and more", b""])
def test_an_exists_after_a_lost_attempt_is_a_conflict_if_the_bytes_differ(theirs: bytes) -> None:
    memory, _, store = lost_create(["before"])
    memory.create("a", theirs)
    with pytest.raises(ConflictError):
        store.create("a", b"mine")
    assert memory.get("a") == theirs


def test_an_object_that_vanishes_before_the_comparison_is_made_again() -> None:
    class Vanishing(MemoryStore):
        def head(self, name: str) -> int:
            self.delete(name)
            return super().head(name)

    memory = Vanishing()
    retrying(FaultyStore(memory, scripted(["lost"]))).create("a", b"mine")
    assert memory.get("a") == b"mine"


@pytest.mark.parametrize("seed", range(20))
def test_under_seeded_faults_the_store_behaves_as_a_dictionary(seed: int) -> None:
    chance, expected = random.Random(seed), {}
    faulty = FaultyStore(MemoryStore(), seeded(seed, rate=0.6))
    store = retrying(faulty)
    for step in range(60):
        name, data = f"n/{chance.randrange(12)}", step.to_bytes(4, "little") * chance.randrange(1, 50)
        action = chance.randrange(5)
        if action == 0:
            store.delete(name)
            expected.pop(name, None)
        elif action == 1:
            assert list(store.list("n/")) == sorted(expected)
        elif name in expected:
            assert store.get(name) == expected[name] and store.head(name) == len(expected[name])
            out = bytearray(len(expected[name]))
            store.read_into(name, 0, memoryview(out))
            assert out == expected[name]
        else:
            store.create(name, data)
            expected[name] = data
    assert sum(faulty.faults.values()) > 20


def test_a_listing_that_breaks_off_goes_on_behind_the_last_name() -> None:
    class Breaking(MemoryStore):
        left = 3

        def list(self, prefix: str):  # type: ignore[no-untyped-def]
            for number, name in enumerate(super().list(prefix)):
                if number == 4 - self.left and self.left:
                    self.left -= 1
                    raise UnavailableError("the listing broke off")
                yield name

    inner = Breaking()
    for number in range(9):
        inner.create(f"n/{number}", b"")
    assert list(retrying(inner).list("n/")) == [f"n/{number}" for number in range(9)]


def test_a_wrapper_asks_nothing_for_a_bad_name_and_keeps_the_url() -> None:
    faulty = FaultyStore(MemoryStore(), scripted([]))
    store = retrying(faulty)
    with pytest.raises(RequestError):
        store.list("/")
    assert faulty.log == [] and store.url == "memory://"
    assert repr(RetryingStore(MemoryStore())) == "RetryingStore(MemoryStore(0 objects))"


def plans() -> list[Plan]:
    return [seeded(3), seeded(3, kinds=("lost",)), scripted(["slow", "lost", "before"])]


@pytest.mark.parametrize("plan", [0, 1, 2])
def test_a_faulty_store_fails_the_same_way_every_time(plan: int) -> None:
    def run() -> list[tuple[str, str, str]]:
        store = FaultyStore(MemoryStore(), plans()[plan])
        calls: list[Callable[[], object]] = [
            lambda: store.create("a", b"xy"),
            lambda: store.get("a"),
            lambda: store.head("a"),
            lambda: list(store.list("")),
        ] * 3
        for call in calls:
            with suppress(UnavailableError, ConflictError, NotFoundError):
                call()
        return [*store.log]

    assert run() == run() and any(fault for _, _, fault in run())


def test_short_data_and_stale_lists_say_nothing() -> None:
    plan: list[Fault] = ["", "", "stale", "short", "short", "short"]
    store = FaultyStore(MemoryStore(), scripted(plan))
    store.create("a", b"12345678")
    store.create("b", b"12345678")
    assert list(store.list("")) == ["a"]
    assert store.get("a") == store.get_range("a", 0, 8) == b"1234"
    out = bytearray(8)
    store.read_into("a", 0, memoryview(out))
    assert out == b"1234" + bytes(4)
    assert list(store.list("")) == ["a", "b"]


def test_the_requests_of_two_moments_are_subtracted() -> None:
    store = retrying(FaultyStore(MemoryStore(), scripted(["before"])))
    before = store.requests
    store.create("a", os.urandom(3))
    assert store.requests.since(before).retries == 1 and before.total == 0
