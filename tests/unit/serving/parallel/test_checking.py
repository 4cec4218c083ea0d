"""What cannot be divided is refused by its field, and what a divided replica asks Ray for."""

from __future__ import annotations

from typing import Any

import pytest

from lightmill.control.divisions import check_divisible
from lightmill.errors import RequestError
from lightmill.records.assets import ModelCard
from lightmill.records.parallel import ParallelSpec
from lightmill.records.signature import Architecture
from lightmill.records.specs import EndpointSpec, parse_spec
from lightmill.serving.parallel.checking import check_parallel
from lightmill.serving.parallel.placing import DOOR_CPUS, HEALTH_PERIOD_S, deployment_options
from tests.unit.registry.world import card
from tests.unit.serving.parallel.gang import ARCHITECTURES


def endpoint(**more: Any) -> EndpointSpec:
    return parse_spec(EndpointSpec, {"name": "e", "model": "m", **more}, "it")


@pytest.mark.parametrize(
    ("architecture", "kind", "ranks", "words"),
    [
        (ARCHITECTURES["tied"], "pipeline", 5, r"parallel\.ranks is 5, .*'decoder' has 4 layers .*at most 4"),
        (ARCHITECTURES["tied"], "tensor", 3, r"parallel\.ranks is 3, .*arguments\.heads is 4"),
        (ARCHITECTURES["mlp"], "tensor", 3, r"parallel\.ranks is 3, .*hidden\[0\] is 16"),
        (ARCHITECTURES["mlp"], "pipeline", 5, "use at most 4 ranks"),
        (
            Architecture(name="logistic", arguments={"inputs": 4, "classes": 3}),
            "tensor",
            2,
            r"parallel\.kind is 'tensor', and architecture 'logistic' has no plan .*leave parallel out",
        ),
        (Architecture(entrypoint="my_pkg.nets:build"), "pipeline", 2, "'my_pkg.nets:build' has no plan"),
    ],
)  # fmt: skip
def test_what_cannot_be_divided_is_refused_by_its_field(
    architecture: Architecture, kind: Any, ranks: int, words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        check_parallel(architecture, ParallelSpec(kind=kind, ranks=ranks))


def test_what_fits_passes_and_only_divided_endpoints_look_at_the_model() -> None:
    for architecture in ARCHITECTURES.values():
        for kind in ("pipeline", "tensor"):
            check_parallel(architecture, ParallelSpec(kind=kind, ranks=4))

    def asked() -> ModelCard:
        raise AssertionError("nobody asks")

    check_divisible(endpoint(), asked)
    with pytest.raises(RequestError, match="has no plan"):
        check_divisible(endpoint(parallel={"kind": "tensor", "ranks": 2}), card)


def test_a_divided_replica_is_placed_with_its_ranks_or_not_at_all() -> None:
    whole = deployment_options(endpoint(resources={"cpus": 2, "gpus": 1}))
    assert whole == {"ray_actor_options": {"num_cpus": 2, "num_gpus": 1}}
    found = deployment_options(endpoint(parallel={"kind": "tensor", "ranks": 3}, resources={"cpus": 2, "gpus": 1}))
    assert found["placement_group_bundles"] == [{"CPU": DOOR_CPUS}, *([{"CPU": 2, "GPU": 1}] * 3)]
    assert found["ray_actor_options"] == {"num_cpus": DOOR_CPUS}
    assert found["health_check_period_s"] == HEALTH_PERIOD_S


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"parallel": {"kind": "tensor", "ranks": 1}}, r"parallel.*ranks"),
        ({"parallel": {"kind": "data", "ranks": 2}}, r"parallel.*kind"),
        ({"parallel": {"kind": "tensor", "ranks": 2}, "resources": {"gpus": 0.5}}, r"resources\.gpus is 0\.5"),
        ({"split": {"rows": 0}, "replicas": {"max": 2}}, r"split\.rows"),
        ({"split": {"rows": 10}}, r"replicas\.max is 1"),
    ],
)
def test_specifications_that_ask_for_what_is_not_done_are_refused(more: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        endpoint(**more)
