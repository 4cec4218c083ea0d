"""S3 behind a network that fails: nothing is lost, nothing wrong passes, retries end with one clear error."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lightmill.errors import ConflictError, ForbiddenError, IntegrityError, NotFoundError, UnavailableError
from lightmill.storage import BlobStore, RetryingStore, RetryPolicy
from lightmill.storage.address import parse_address
from lightmill.storage.requests import RequestMeter
from tests.faulty_proxy import FaultyProxy, always, each, faulty_proxy
from tests.seaweed import SeaweedServer

remote = pytest.importorskip("lightmill.storage.remote", reason="obstore is not installed")

ATTEMPTS = 5
DATA = os.urandom(300_000)
TRANSIENT = ["500", "503", "reset", "lost", "lost_500", "short", "wrong_200", "wrong_206"]


class Scene:
    """A store behind the proxy, the same store straight from the server, and what was slept."""

    def __init__(self, proxy: FaultyProxy, server: SeaweedServer) -> None:
        self.proxy = proxy
        self.slept: list[float] = []
        address = parse_address(server.url(endpoint=proxy.endpoint))
        meter = RequestMeter()
        self.once = remote.open_remote(address, remote.Timeouts(connect_s=2, stall_s=0.4, total_s=10), meter)
        policy = RetryPolicy(attempts=ATTEMPTS)
        self.store = RetryingStore(self.once, policy, sleep=self.slept.append, meter=meter)
        self.straight: BlobStore = remote.open_remote(parse_address(server.url(address.prefix)))


@pytest.fixture
def scene(seaweed: SeaweedServer) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(stack.enter_context(faulty_proxy(seaweed.port, delay_s=1.5)), seaweed)


def test_the_proxy_changes_nothing_by_itself(scene: Scene) -> None:
    scene.store.create("a", DATA)
    assert scene.store.get("a") == DATA == scene.straight.get("a")
    assert list(scene.store.list("")) == ["a"]
    assert scene.proxy.faults == {} and scene.slept == []
    counted = scene.store.requests
    assert (counted.create, counted.get, counted.list, counted.retries) == (1, 1, 1, 0)
    assert (counted.bytes_out, counted.bytes_in) == (len(DATA), len(DATA))
    assert counted.total == len(scene.proxy.log) == 3


@pytest.mark.parametrize("fault", TRANSIENT)
def test_reads_survive_a_fault_and_are_exact(scene: Scene, fault: str) -> None:
    scene.straight.create("a", DATA)
    scene.proxy.plan = each([fault, fault], "GET")
    assert scene.store.get("a") == DATA
    scene.proxy.plan = each([fault, fault], "GET")
    assert scene.store.get_range("a", 1000, 200_000) == DATA[1000:201_000]
    scene.proxy.plan = each([fault, fault], "GET")
    out = bytearray(200_000)
    scene.store.read_into("a", 1000, memoryview(out))
    assert out == DATA[1000:201_000]
    assert scene.proxy.faults == {fault: 6} and scene.store.requests.retries == len(scene.slept) == 6


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_bad_answer_never_passes_for_a_good_one(scene: Scene, fault: str) -> None:
    scene.straight.create("a", DATA)
    scene.proxy.plan = always(fault, "GET")
    for read in (
        lambda: scene.once.get("a"),
        lambda: scene.once.get_range("a", 0, len(DATA)),
        lambda: scene.once.read_into("a", 0, memoryview(bytearray(len(DATA)))),
        lambda: list(scene.once.list("")) if fault not in ("wrong_206",) else scene.once.get("a"),
    ):
        with pytest.raises(UnavailableError):
            read()


@pytest.mark.parametrize("fault", ["500", "503", "reset", "lost", "lost_500", "409"])
def test_a_create_survives_a_fault_and_is_ours(scene: Scene, fault: str) -> None:
    scene.proxy.plan = each([fault, fault], "PUT")
    scene.store.create("a", DATA)
    assert scene.straight.get("a") == DATA
    assert scene.proxy.faults == {fault: 2}
    with pytest.raises(ConflictError):
        scene.store.create("a", DATA)  # a second call with equal bytes had no lost attempt


@pytest.mark.parametrize("fault", ["500", "lost", "lost_500"])
def test_a_create_that_lost_says_so_also_after_a_lost_answer(scene: Scene, fault: str) -> None:
    scene.straight.create("a", DATA)
    for other in (b"x", DATA[:-1] + bytes([DATA[-1] ^ 1]), DATA + b"x"):
        scene.proxy.plan = each([fault, fault], "PUT")
        with pytest.raises(ConflictError):
            scene.store.create("a", other)
    assert scene.straight.get("a") == DATA


def test_the_comparison_after_a_lost_answer_is_repeated_too(scene: Scene) -> None:
    waiting = {"PUT": ["lost"], "HEAD": ["500", "reset"], "GET": ["short"]}
    scene.proxy.plan = lambda method, target: waiting[method].pop(0) if waiting.get(method) else ""
    scene.store.create("a", DATA)
    assert scene.straight.get("a") == DATA and waiting == {"PUT": [], "HEAD": [], "GET": []}


def test_a_refused_condition_is_no_loss_while_nobody_has_won(scene: Scene) -> None:
    scene.proxy.plan = always("409", "PUT")
    with pytest.raises(UnavailableError, match="somebody else"):
        scene.once.create("a", b"x")
    scene.straight.create("a", b"other")
    with pytest.raises(ConflictError):
        scene.once.create("a", b"x")


@pytest.mark.parametrize("fault", ["500", "503", "reset", "lost", "lost_500"])
def test_the_small_operations_survive_a_fault(scene: Scene, fault: str) -> None:
    scene.straight.create("a", DATA)
    scene.proxy.plan = each([fault, fault])
    assert scene.store.head("a") == len(DATA)
    scene.proxy.plan = each([fault, fault])
    assert list(scene.store.list("")) == ["a"]
    scene.proxy.plan = each([fault, fault])
    scene.store.delete("a")
    assert list(scene.straight.list("")) == []
    with pytest.raises(NotFoundError):
        scene.store.get("a")


@pytest.mark.parametrize("fault", ["500", "503", "reset", "short", "wrong_206"])
def test_retries_are_bounded_and_end_with_one_clear_error(scene: Scene, fault: str) -> None:
    scene.straight.create("a", DATA)
    scene.proxy.plan = always(fault)
    with pytest.raises(UnavailableError) as caught:
        scene.store.get("a")
    assert scene.proxy.faults == {fault: ATTEMPTS} and len(scene.slept) == ATTEMPTS - 1
    ceilings = [RetryPolicy().ceiling_s(n) for n in range(1, ATTEMPTS)]
    assert all(0 <= pause <= most for pause, most in zip(scene.slept, ceilings, strict=True))
    message = caught.value.message
    assert scene.store.url in message and " a" in message and f"gave up after {ATTEMPTS} attempts" in message
    assert {"500": "500 (InternalError)", "503": "503 (SlowDown)"}.get(fault, "") in message
    assert message.count("fails for") + message.count("it owes") == 1 and "\n" not in message


def test_a_slow_answer_ends_at_the_timeout_and_is_asked_for_again(scene: Scene) -> None:
    scene.straight.create("a", DATA)
    scene.proxy.plan = each(["delay"])
    assert scene.store.get("a") == DATA
    assert len(scene.slept) == 1
    scene.proxy.plan = each(["delay"])
    with pytest.raises(UnavailableError, match="timeout"):
        scene.once.head("a")


def test_what_a_retry_cannot_change_is_not_retried(scene: Scene) -> None:
    scene.straight.create("a", DATA)
    scene.proxy.plan = always("403")
    with pytest.raises(ForbiddenError, match="AWS_ACCESS_KEY_ID"):
        scene.store.create("b", b"x")
    with pytest.raises(ForbiddenError):
        list(scene.store.list(""))
    scene.proxy.plan = always("")
    with pytest.raises(IntegrityError, match="shorter"):
        scene.store.get_range("a", 0, len(DATA) + 1)
    assert scene.slept == []


def test_a_listing_whose_page_lost_the_next_one_is_noticed(scene: Scene) -> None:
    names = sorted(f"n/{i:04d}" for i in range(1003))
    for name in names:
        scene.straight.create(name, b"")
    assert list(scene.straight.list("n/")) == names
    scene.proxy.plan = each(["last_page"])
    assert list(scene.store.list("n/")) == names
    assert scene.proxy.faults == {"last_page": 1} and scene.slept == []


def test_a_long_listing_survives_faults_on_any_page(scene: Scene, request: pytest.FixtureRequest) -> None:
    names = sorted(f"n/{i:04d}" for i in range(1003))
    for name in names:
        scene.straight.create(name, b"")
    for faults in (["", "500"], ["", "short"], ["", "reset", "", "lost"], ["503", "", "500"]):
        scene.proxy.plan = each(faults)
        assert list(scene.store.list("n/")) == names


def test_many_operations_over_a_bad_network_lose_nothing(scene: Scene) -> None:
    chance, expected = random.Random(23), {}
    faults = [*TRANSIENT, "409"]

    def plan(method: str, target: str) -> str:
        if chance.random() >= 0.3:
            return ""
        fault = chance.choice(faults)
        return "" if fault == "409" and method != "PUT" else fault

    scene.proxy.plan = plan
    lost = 0
    for i in range(150):
        name, data = f"b/{i % 60}", os.urandom(chance.randrange(1, 5000))
        try:
            scene.store.create(name, data)
            assert name not in expected
            expected[name] = data
        except ConflictError:
            assert name in expected
        except UnavailableError:  # may have been made or not; look straight
            lost += 1
            if name not in expected and name in list(scene.straight.list("b/")):
                assert scene.straight.get(name) == data
                expected[name] = data
    scene.proxy.plan = always("")
    assert list(scene.straight.list("b/")) == sorted(expected)
    assert all(scene.straight.get(name) == data for name, data in expected.items())
    counts = Counter(scene.proxy.faults)
    print(f"150 creates over {sum(counts.values())} faults {dict(counts)}: {len(expected)} objects, {lost} gave up")
    assert sum(counts.values()) > 30 and lost <= 5
