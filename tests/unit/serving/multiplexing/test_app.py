"""A request goes to the model that its header names, by that model's card; without the header to the endpoint's own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightmill.errors import LightmillError, NotFoundError
from lightmill.models.classifier import Classifier
from lightmill.records.multiplexing import ModelsSpec
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.specs import EndpointSpec, parse_spec
from lightmill.serving.batcher import Batcher
from lightmill.serving.loading import load_model
from lightmill.serving.multiplexing.app import Asking, Multiplexed
from lightmill.serving.multiplexing.naming import Names
from lightmill.serving.service import InferenceService
from tests.unit.registry.world import World, publish, weights
from tests.unit.serving.parallel.gang import location_of

SPEC = ModelsSpec(names=("store-*", "base"), alias="champion", memory_mb=1, follow_s=5)
ROWS = [[1.0, 2.0, 3.0, 4.0]]


class Many:
    """Three models of one deployment, of which `store-1` has two versions, and what answers for them here."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.now = 0.0
        self.asked: list[tuple[str, float | None, str]] = []
        registry = self.world.registry
        for start, name in enumerate(("base", "store-1", "store-2", "secret")):
            publish(registry, name, weights(start))
            registry.set_alias(AssetKind.MODEL, name, "champion", 1)
        self.names = Names(SPEC, registry.resolve, clock=lambda: self.now)
        own = self.service(self.names.version("base"), own=True)
        self.app = Multiplexed(own, self.names, self.service)

    def model(self, version: VersionId) -> Classifier:
        found = load_model(location_of(self.world), version)
        assert isinstance(found, Classifier)
        return found

    async def ask(self, version: VersionId, features: Any, timeout_s: float | None, priority: Any) -> Any:
        self.asked.append((str(version), timeout_s, priority))
        return self.model(version).predict(features)

    def service(self, version: VersionId, own: bool = False) -> InferenceService:
        model = self.model(version)
        batcher = Batcher(model.predict, max_rows=8, max_wait_s=0, inline=True) if own else Asking(version, self.ask)
        return InferenceService("stores", version, model.card, batcher, None)

    def infer(self, name: str | None, path: str = "/infer", **parameters: Any) -> tuple[int, Any]:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": ROWS}
        body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
        headers = [] if name is None else [(b"x-model", name.encode())]
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST" if path == "/infer" else "GET", "headers": headers,
            "path": f"/v2/models/stores{path}", "root_path": "/v2/models/stores", "query_string": b"",
        }  # fmt: skip
        asyncio.run(self.app(scope, receive, send))
        return sent[0]["status"], json.loads(sent[1]["body"])

    def probabilities(self, name: str | None) -> Any:
        status, found = self.infer(name)
        assert status == 200, found
        return found["outputs"][0]["data"]


@pytest.fixture
def many(tmp_path: Path) -> Many:
    return Many(tmp_path)


def test_each_model_answers_for_itself_and_without_a_name_the_endpoint_s_own(many: Many) -> None:
    rows = np.array(ROWS, dtype=np.float32)
    for name, wanted in ((None, "base"), ("store-1", "store-1"), ("store-2", "store-2"), ("base", "base")):
        model = many.model(many.names.version(wanted))
        np.testing.assert_allclose(many.probabilities(name), model.predict(rows).probabilities[0], rtol=1e-5)
    assert [name for name, _, _ in many.asked] == ["store-1@1", "store-2@1", "base@1"]
    assert many.infer("store-2", path="")[1]["versions"] == ["1"]


def test_class_and_deadline_of_a_request_go_along(many: Many) -> None:
    assert many.infer("store-1", priority=1, timeout=3_000_000)[0] == 200
    ((_, timeout_s, priority),) = many.asked
    assert priority == "high" and timeout_s is not None and 2 < timeout_s <= 3


@pytest.mark.parametrize("name", ["secret", "nobody", "store-9", "store-1@2", "../x", ""])
def test_what_the_endpoint_does_not_serve_is_not_found(many: Many, name: str) -> None:
    with pytest.raises(LightmillError) as caught:
        many.infer(name)
    assert caught.value.status in (400, 404)


def test_a_moved_alias_is_followed_after_a_while(many: Many) -> None:
    registry = many.world.registry
    before = many.probabilities("store-1")
    publish(registry, "store-1", weights(9.0))
    registry.set_alias(AssetKind.MODEL, "store-1", "champion", 2)
    assert many.probabilities("store-1") == before
    many.now += SPEC.follow_s
    many.probabilities("store-1")
    assert many.asked[-1][0] == "store-1@2"


def test_names_are_patterns_and_nothing_else() -> None:
    assert SPEC.takes("store-17") and SPEC.takes("base") and not SPEC.takes("restore-1")
    assert SPEC.memory_bytes == 1_000_000
    for names in ([], ["A"], ["x y"], ["-"]):
        with pytest.raises(ValueError):
            ModelsSpec(names=tuple(names), memory_mb=1)


def test_models_do_not_go_together_with_what_divides_one() -> None:
    models = {"names": ["store-*"], "memory_mb": 5}
    base = {"name": "stores", "model": "base", "models": models}
    assert parse_spec(EndpointSpec, base, "it").models is not None
    for more in ({"parallel": {"kind": "tensor", "ranks": 2}}, {"split": {"rows": 5}, "replicas": {"max": 2}}):
        with pytest.raises(LightmillError, match="do not go together"):
            parse_spec(EndpointSpec, {**base, **more}, "it")
    assert issubclass(NotFoundError, LightmillError)
