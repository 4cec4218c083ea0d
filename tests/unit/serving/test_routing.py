"""Choices among replicas, and Ray Serve's router that is made of them."""

from __future__ import annotations

import asyncio
import collections
from random import Random
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.records.balancing import BalancingName, BalancingSpec
from lightmill.serving.routing.balancer import Balancer
from lightmill.serving.routing.choices import HashRing, bounded, power_of_two, weighted

NAMES = [f"replica-{n}" for n in range(8)]


def balancer(name: BalancingName, **more: Any) -> Balancer:
    return Balancer(BalancingSpec(name=name, **more), seed=1)


def test_round_robin_gives_everybody_a_turn() -> None:
    under_test = balancer("round_robin")
    assert [under_test.choose([9, 0, 0]) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_least_loaded_takes_the_least_and_any_of_several() -> None:
    under_test = balancer("least_loaded")
    assert {under_test.choose([3, 1, 2]) for _ in range(20)} == {1}
    assert {under_test.choose([1, 1, 2]) for _ in range(50)} == {0, 1}


def test_of_two_drawn_the_less_loaded_is_taken_so_that_the_most_loaded_never_is() -> None:
    draw = Random(1)
    counts = collections.Counter(power_of_two([5, 0, 3], draw) for _ in range(3000))
    assert counts[0] == 0
    assert counts[1] / 3000 == pytest.approx(2 / 3, abs=0.05)
    assert power_of_two([4], draw) == 0


def test_weights_are_shares_and_none_above_zero_is_all_alike() -> None:
    draw = Random(1)
    counts = collections.Counter(weighted([3, 1, 0, -1], draw) for _ in range(4000))
    assert counts[2] == counts[3] == 0
    assert counts[0] / 4000 == pytest.approx(0.75, abs=0.03)
    assert {weighted([0, 0], draw) for _ in range(50)} == {0, 1}


@given(st.text(), st.integers(1, 8))
def test_a_key_belongs_to_one_name_and_walks_over_all(key: str, count: int) -> None:
    ring = HashRing(NAMES[:count])
    walked = list(ring.walk(key))
    assert sorted(walked) == sorted(NAMES[:count])
    assert walked == list(HashRing(list(reversed(NAMES[:count]))).walk(key))


def test_a_name_that_goes_moves_only_its_own_keys() -> None:
    before, after = HashRing(NAMES), HashRing(NAMES[1:])
    keys = [f"key {n}" for n in range(2000)]
    owners = {key: next(before.walk(key)) for key in keys}
    assert all(next(after.walk(key)) == owner for key, owner in owners.items() if owner != NAMES[0])
    counts = collections.Counter(owners.values())
    assert max(counts.values()) < 1.5 * 2000 / 8


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.floats(1.01, 3))
def test_no_replica_has_more_than_its_bound(keys: list[int], bound: float) -> None:
    ring = HashRing(NAMES)
    loads = dict.fromkeys(NAMES, 0)
    for key in keys:
        loads[bounded(ring, f"{key}", loads, bound)] += 1
        assert max(loads.values()) <= -(-bound * sum(loads.values()) // len(NAMES))


def test_one_key_goes_to_one_replica_as_long_as_it_is_not_above_its_bound() -> None:
    under_test = balancer("hash", bound=2)
    first = under_test.choose([0] * 8, names=NAMES, key="a")
    assert {under_test.choose([0] * 8, names=NAMES, key="a") for _ in range(9)} == {first}
    loads = [5] * 8
    loads[first] = 20
    other = under_test.choose(loads, names=NAMES, key="a")
    assert other != first
    prefix = balancer("prefix", prefix_length=3)
    assert len({prefix.choose([0] * 8, names=NAMES, key=f"abc{n}") for n in range(50)}) == 1
    assert len({under_test.choose([0] * 8, names=NAMES, key=f"abc{n}") for n in range(50)}) > 4


@pytest.mark.parametrize("name", get_args(BalancingName))
def test_every_choice_is_one_of_the_replicas_and_repeatable(name: BalancingName) -> None:
    for count in (1, 2, 5):
        chosen = [
            [one.choose([n % 3 for n in range(count)], names=NAMES[:count], key=f"{n % 4}") for n in range(50)]
            for one in (balancer(name), balancer(name))
        ]
        assert chosen[0] == chosen[1]
        assert set(chosen[0]) <= set(range(count))


class Replica:
    """As much of Serve's RunningReplica as a router asks."""

    def __init__(self, number: int, weight: float | None = None) -> None:
        from ray.serve._private.common import DeploymentID, ReplicaID

        self.replica_id = ReplicaID(unique_id=f"r{number}", deployment_id=DeploymentID(name="p", app_name="a"))
        self.routing_stats = {} if weight is None else {"weight": weight}
        self.max_ongoing_requests = 8


def routed(spec: BalancingSpec, loads: list[int], key: str = "", weights: tuple[float, ...] = ()) -> list[str]:
    """Ask a real router of Serve that was made from its real configuration."""
    common = pytest.importorskip("ray.serve._private.common")
    request_router = pytest.importorskip("ray.serve._private.request_router.common")
    from lightmill.serving.routing.ray_router import router_config

    async def run() -> list[str]:
        config = router_config(spec)
        router = config.get_request_router_class()(
            deployment_id=common.DeploymentID(name="p", app_name="a"),
            handle_source=common.DeploymentHandleSource.REPLICA,
            use_replica_queue_len_cache=True,
        )
        router.initialize_state(**config.request_router_kwargs)
        replicas = [Replica(n, weights[n] if weights else None) for n in range(len(loads))]
        for replica, load in zip(replicas, loads, strict=True):
            router.replica_queue_len_cache.update(replica.replica_id, load)
        metadata = common.RequestMetadata(request_id="1", internal_request_id="1", session_id=key)
        pending = request_router.PendingRequest(args=[], kwargs={}, metadata=metadata)
        ranks = await router.choose_replicas(replicas, pending)
        assert await router.choose_replicas([], pending) == []
        return [one.replica_id.unique_id for rank in ranks for one in rank]

    return asyncio.run(run())


def test_serve_s_router_asks_the_chosen_replica_first_and_then_the_others_by_load() -> None:
    assert routed(BalancingSpec(), [4, 1, 3, 2]) == ["r1", "r3", "r2", "r0"]
    assert routed(BalancingSpec(name="weighted"), [4, 1, 3], weights=(0, 0, 1)) == ["r2", "r1", "r0"]
    keyed = [routed(BalancingSpec(name="hash"), [0, 0, 0, 0], key="k") for _ in range(3)]
    assert keyed[0] == keyed[1] == keyed[2]


def test_what_serve_has_itself_is_serve_s() -> None:
    from lightmill.serving.routing.ray_router import router_config

    assert router_config(BalancingSpec(name="power_of_two")).is_default_request_router()
    assert "round_robin" in str(router_config(BalancingSpec(name="round_robin")).request_router_class)
    assert sorted(routed(BalancingSpec(name="round_robin"), [0, 0, 0])) == ["r0", "r1", "r2"]
