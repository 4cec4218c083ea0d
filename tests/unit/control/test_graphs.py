"""Graphs of a platform: refused where they do not fit, ready with their members, asked as the caller, in one trace."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightmill.catalog import Catalog
from lightmill.control.graphs import GraphedEndpoints, check_graph, members_of, observed, scopes, traceparent
from lightmill.control.reconcile import Forget, Observe
from lightmill.errors import ForbiddenError, NotFoundError, RequestError
from lightmill.records.endpoints import EndpointState
from lightmill.records.specs import EndpointSpec, parse_spec
from lightmill.serving.endpoints import ListedEndpoint
from lightmill.serving.graphs.traces import GraphTraces
from lightmill.serving.signals.tracing import Tracer, parse_traceparent
from lightmill.serving.tensors import InferRequest, InferResponse, ModelDescription, Tensor
from tests.unit.registry.world import World, card, publish

MEAN = {"kind": "parallel", "join": "mean", "branches": ["one", "two"]}


def graph(name: str, value: Any) -> EndpointSpec:
    return parse_spec(EndpointSpec, {"name": name, "graph": value}, "it")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    publish(found.registry, "m")
    publish(found.registry, "other", model=card(features="y"))
    for name, model in (("one", "m@1"), ("two", "m@1"), ("other", "other@1")):
        found.catalog.endpoints.put(EndpointSpec(name=name, model=model))
    yield found
    found.catalog.close()


def check(world: World, spec: EndpointSpec) -> None:
    check_graph(spec, world.catalog, world.registry)


def test_a_graph_is_held_against_what_its_members_serve(world: World) -> None:
    check(world, graph("both", MEAN))
    check(world, EndpointSpec(name="plain", model="m"))
    with pytest.raises(NotFoundError, match=r"graph\.branches\[1\] is endpoint 'nobody'"):
        check(world, graph("both", {**MEAN, "branches": ["one", "nobody"]}))
    with pytest.raises(RequestError, match=r"steps\[1\]\.inputs\.y is 'y', which no earlier step returns"):
        check(world, graph("both", {"kind": "sequence", "steps": ["one", "other"]}))


def test_a_graph_that_comes_back_to_itself_is_refused(world: World) -> None:
    with pytest.raises(RequestError, match="both -> both"):
        check(world, graph("both", "both"))
    world.catalog.endpoints.put(graph("inner", MEAN))
    check(world, graph("outer", "inner"))
    world.catalog.endpoints.put(graph("outer", "inner"))
    with pytest.raises(RequestError, match="inner -> outer -> inner"):
        check(world, graph("inner", {**MEAN, "branches": ["one", "outer"]}))


def test_nothing_else_may_be_set_where_a_graph_is() -> None:
    with pytest.raises(RequestError, match=r"replicas, batching would do nothing"):
        parse_spec(EndpointSpec, {"name": "g", "graph": "a", "replicas": {"max": 3}, "batching": {"max_rows": 2}}, "it")
    with pytest.raises(RequestError, match="key 'model' is missing"):
        parse_spec(EndpointSpec, {"name": "g"}, "it")
    again = graph("g", MEAN)
    assert EndpointSpec.model_validate_json(again.model_dump_json()) == again


def test_a_graph_is_ready_when_all_its_members_are(world: World) -> None:
    endpoints = world.catalog.endpoints
    endpoints.put(graph("both", MEAN))

    def state() -> tuple[EndpointState, str]:
        (found,) = observed(endpoints.list())
        assert isinstance(found, Observe)
        return found.state, found.message

    assert state() == (EndpointState.DEPLOYING, "Its endpoint 'one' is pending.")
    for name in ("one", "two"):
        endpoints.observe(name, state=EndpointState.READY, version=None, replicas=1, message="")
    assert state() == (EndpointState.READY, "")
    endpoints.observe("two", state=EndpointState.FAILED, version=None, replicas=0, message="")
    assert state()[0] is EndpointState.UNHEALTHY
    endpoints.delete("two")
    assert state()[0] is EndpointState.FAILED
    assert members_of("one", endpoints.list()) == ["both"] and members_of("other", endpoints.list()) == []
    endpoints.delete("both")
    assert observed(endpoints.list()) == [Forget(name="both")]


@dataclass
class Replicas:
    """Stands for the endpoints behind: answers three shares a row, and notes who was asked in which trace."""

    registry: Any
    asked: list[tuple[str, bytes | None]] = field(default_factory=list)

    def listed(self) -> list[ListedEndpoint]:
        return []

    async def describe(self, name: str) -> ModelDescription:
        return ModelDescription(name=name, version="1", signature=card().signature)

    async def infer(self, name: str, request: InferRequest) -> InferResponse:
        self.asked.append((name, traceparent.get()))
        rows = len(request.inputs[0].array)
        share = np.full((rows, 3), 1.0 if name == "one" else 0.0, dtype=np.float32)
        label = np.zeros(rows, dtype=np.int64)
        outputs = (
            Tensor(name="probabilities", datatype="FP32", array=share),
            Tensor(name="label", datatype="INT64", array=label),
        )
        return InferResponse(model=name, version="1", outputs=outputs)


def asked(served: GraphedEndpoints, name: str, *allowed: str, trace: bytes | None = None) -> InferResponse:
    async def run() -> InferResponse:
        scopes.set(allowed)
        traceparent.set(trace)
        x = Tensor(name="x", datatype="FP32", array=np.ones((2, 4), dtype=np.float32))
        return await served.infer(name, InferRequest(inputs=(x,)))

    return asyncio.run(run())


def test_a_graph_answers_as_an_endpoint_of_its_own_to_whoever_may_call_it(world: World) -> None:
    world.catalog.endpoints.put(graph("both", MEAN))
    world.catalog.endpoints.put(graph("outer", {"kind": "sequence", "steps": ["both"]}))
    replicas = Replicas(world.registry)
    served = GraphedEndpoints(world.catalog, replicas)
    model = asyncio.run(served.describe("outer"))
    assert [one.name for one in model.signature.inputs] == ["x"] and model.version == "1"
    found = asked(served, "outer", "predict:*")
    assert found.model == "outer" and found.outputs[0].array.tolist() == [[0.5] * 3] * 2
    assert sorted(name for name, _ in replicas.asked) == ["one", "two"]
    with pytest.raises(ForbiddenError, match="predict:both"):
        asked(served, "both", "predict:one", "predict:two")
    assert asked(served, "one", "predict:one").model == "one"


def test_all_calls_of_a_graph_are_in_one_trace_below_its_span(world: World) -> None:
    world.catalog.endpoints.put(graph("both", MEAN))
    replicas, sent = Replicas(world.registry), []

    class Exporter:
        def export(self, spans: Any) -> None:
            sent.extend(spans)

    class Traces(GraphTraces):
        tracer = Tracer("both", "1", Exporter())  # pyright: ignore[reportArgumentType]

        def _tracer(self, name: str, version: str) -> Tracer:
            return self.tracer

    traces = Traces()
    served = GraphedEndpoints(world.catalog, replicas, traces)
    begun = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
    asked(served, "both", "predict:*", trace=begun)
    traces.tracer.flush()
    (span,) = sent
    assert span.context.trace_id == int("a" * 32, 16) and span.parent.span_id == int("b" * 16, 16)
    parents = [parse_traceparent(header or b"") for _, header in replicas.asked]
    assert parents == [(span.context.trace_id, span.context.span_id, True)] * 2
    asked(GraphedEndpoints(world.catalog, replicas), "both", "predict:*", trace=begun)
    assert replicas.asked[-1][1] == begun


def test_an_empty_catalog_has_no_graphs(tmp_path: Path) -> None:
    with Catalog.open(f"sqlite:///{tmp_path / 'catalog.db'}") as catalog:
        catalog.migrate()
        assert observed(catalog.endpoints.list()) == []
