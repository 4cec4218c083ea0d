"""The simulated cluster against what can be worked out by hand, and what must hold for any link and straggler."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from lightmill.errors import RequestError
from lightmill.records.training import StrategySpec
from lightmill.training.simulation import (
    Cluster,
    Link,
    Stragglers,
    Workload,
    fitted_link,
    predict,
    speed_curve,
)

NAMES = sorted(kind.model_fields["name"].default for kind in get_args(get_args(StrategySpec)[0]))
WORK = Workload(compute_s=0.1, parameter_bytes=4e6, layers=8, activation_bytes=1e5)
LINK = Link(bytes_per_s=1e9, latency_s=1e-5)
FREE = Link(bytes_per_s=1e30, latency_s=0.0)


def chosen(name: str, **more: Any) -> StrategySpec:
    return TypeAdapter[StrategySpec](StrategySpec).validate_python({"name": name} | more)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("workers", [1, 8, 64])
def test_with_a_free_link_and_no_stragglers_only_a_pipelines_bubble_costs(name: str, workers: int) -> None:
    (found,) = speed_curve(chosen(name), WORK, FREE, [workers])
    stages = min(workers, WORK.layers)
    bubble = (4 + stages - 1) / 4 if name == "pipeline" else 1.0
    assert found.speed_up == pytest.approx(workers / bubble, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.integers(1, 12),
    st.floats(1e5, 1e10),
    st.floats(0, 1e-3),
    st.floats(0, 0.5),
)
def test_no_strategy_scales_better_than_perfectly_nor_worse_with_a_faster_link(
    name: str, workers: int, speed: float, latency_s: float, variation: float
) -> None:
    cluster = Cluster(
        workers=workers, link=Link(bytes_per_s=speed, latency_s=latency_s), stragglers=Stragglers(variation=variation)
    )
    faster = Cluster(
        workers=workers, link=Link(bytes_per_s=2 * speed, latency_s=latency_s / 2), stragglers=cluster.stragglers
    )
    rate = predict(chosen(name), WORK, cluster)
    assert 0 < rate <= 1 / WORK.compute_s * (1 + variation)
    assert predict(chosen(name), WORK, faster) >= rate * (1 - 1e-9)


def test_all_reduce_is_what_the_ring_takes() -> None:
    work = Workload(compute_s=0.1, parameter_bytes=4e8, overlap=0.5)
    all_reduce = 2 * 3 * (1e-5 + 1e8 / 1e9)
    found = predict(chosen("ddp"), work, Cluster(workers=4, link=LINK))
    assert found == pytest.approx(1 / (0.1 + all_reduce - 0.05))
    sharded = predict(chosen("fsdp"), work, Cluster(workers=4, link=LINK))
    assert sharded == pytest.approx(1 / (0.1 + 1.5 * all_reduce - 0.05))


def test_one_server_is_crowded_and_more_of_them_help() -> None:
    def rate(workers: int, servers: int) -> float:
        spec = chosen("parameter_server", servers=servers)
        return predict(spec, WORK, Cluster(workers=workers, link=LINK))

    assert rate(32, 1) == pytest.approx(1 / (0.1 + 2 * (1e-5 + 32 * 4e6 / 1e9)))
    assert rate(32, 1) < rate(32, 8) < rate(32, 32)


def test_one_slow_worker_holds_up_all_but_those_that_wait_for_nobody() -> None:
    cluster = Cluster(workers=8, link=FREE, stragglers=Stragglers(slow_workers=1, slow_factor=5))
    for name in ("ddp", "local_sgd", "ring"):
        assert predict(chosen(name), WORK, cluster) == pytest.approx(2.0, rel=0.15), name
    assert predict(chosen("parameter_server"), WORK, cluster) == pytest.approx(2.0)
    assert predict(chosen("parameter_server", consistency="asp"), WORK, cluster) == pytest.approx((7 * 10 + 2) / 8)
    bounded = predict(chosen("parameter_server", consistency="ssp", staleness=2), WORK, cluster)
    assert bounded == pytest.approx(2.0, rel=0.05)


def test_a_bound_that_is_wider_and_rounds_that_are_longer_even_out_what_varies() -> None:
    cluster = Cluster(workers=32, link=FREE, stragglers=Stragglers(variation=0.5))

    def rate(name: str, **more: Any) -> float:
        return predict(chosen(name, **more), WORK, cluster)

    bounded = [rate("parameter_server", consistency="ssp", staleness=k) for k in (0, 1, 4, 16)]
    assert bounded == sorted(bounded)
    assert bounded[0] == pytest.approx(rate("parameter_server"))
    assert rate("local_sgd", local_steps=1) < rate("local_sgd", local_steps=8) < rate("local_sgd", local_steps=64)
    assert rate("ddp") < rate("ring")


def test_a_thousand_workers_are_simulated() -> None:
    curve = speed_curve(chosen("local_sgd", local_steps=16), WORK, LINK, [1, 32, 1024], Stragglers(variation=0.1))
    assert [one.workers for one in curve] == [1, 32, 1024]
    assert curve[0].speed_up < curve[1].speed_up < curve[2].speed_up <= 1024


def test_a_link_is_found_again_from_what_it_measured() -> None:
    sizes = [1e4, 1e5, 1e6, 1e7]
    found = fitted_link(sizes, [LINK.all_reduce(size, 4) for size in sizes], 4)
    assert found.bytes_per_s == pytest.approx(LINK.bytes_per_s)
    assert found.latency_s == pytest.approx(LINK.latency_s)


def test_no_workers_are_refused() -> None:
    with pytest.raises(RequestError, match="0 workers"):
        predict(chosen("ddp"), WORK, Cluster(workers=0, link=LINK))
