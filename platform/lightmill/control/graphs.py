"""Graphs of endpoints: checked when they are deployed, ready when their members are, run by the gateway.

A graph has no replicas: the gateway asks its members by handle, as the caller. So whoever calls a graph needs the right
to it and to each of its members, and the limits of the members count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from lightmill.catalog import Catalog
from lightmill.control.reconcile import Forget, Observe
from lightmill.errors import ForbiddenError, NotFoundError, RequestError, UnavailableError
from lightmill.records.access import may_predict
from lightmill.records.endpoints import Endpoint, EndpointState
from lightmill.records.graphs import GraphNode, endpoints_in
from lightmill.records.references import AssetKind, parse_reference
from lightmill.records.specs import EndpointSpec
from lightmill.registry import Registry
from lightmill.serving.endpoints import Endpoints, ListedEndpoint
from lightmill.serving.graphs.plan import Plan, plan_of
from lightmill.serving.graphs.running import Run
from lightmill.serving.graphs.traces import GraphTraces
from lightmill.serving.tensors import InferRequest, InferResponse, ModelDescription

PLANNED_FOR_S = 0.5
scopes: ContextVar[tuple[str, ...]] = ContextVar("scopes", default=())
"""What the caller of the request at hand may do; the gate sets it."""
traceparent: ContextVar[bytes | None] = ContextVar("traceparent", default=None)
"""The trace that the request at hand belongs to."""


def check_graph(spec: EndpointSpec, catalog: Catalog, registry: Registry) -> None:
    """Check that a graph's members exist, that it does not come back to itself, and that names and types fit.

    Members are taken as the versions that they follow now. Nothing is done for an endpoint that is no graph.

    Raises:
        RequestError: Something does not fit; the message names the field.
        NotFoundError: There is no such endpoint, or no version of its model.
    """
    if spec.graph is None:
        return
    _plan(spec.name, spec.graph, catalog, registry, (spec.name,))


def members_of(name: str, endpoints: Sequence[Endpoint]) -> list[str]:
    """Return the graphs that call an endpoint."""
    graphs = [one for one in endpoints if one.spec.graph is not None and not one.deleted]
    return [one.name for one in graphs if one.spec.graph is not None and name in endpoints_in(one.spec.graph)]


def observed(endpoints: Sequence[Endpoint]) -> list[Observe | Forget]:
    """Return what is to be written of graphs: one is ready when all its members are. Pure."""
    found: list[Observe | Forget] = []
    by_name = {one.name: one for one in endpoints}
    for one in endpoints:
        if one.spec.graph is None:
            continue
        if one.deleted:
            found.append(Forget(name=one.name))
            continue
        state, message = _state(one.spec.graph, by_name)
        found.append(
            Observe(name=one.name, revision=one.revision, state=state, version=None, replicas=0, message=message)
        )
    return found


def _state(graph: GraphNode, by_name: Mapping[str, Endpoint]) -> tuple[EndpointState, str]:
    for name in endpoints_in(graph):
        member = by_name.get(name)
        if member is None or member.deleted:
            return EndpointState.FAILED, f"Its endpoint {name!r} does not exist; deploy it, or change the graph."
        if member.state is not EndpointState.READY:
            waits = member.state in (EndpointState.PENDING, EndpointState.DEPLOYING)
            state = EndpointState.DEPLOYING if waits else EndpointState.UNHEALTHY
            return state, f"Its endpoint {name!r} is {member.state}."
    return EndpointState.READY, ""


def _plan(name: str, graph: GraphNode, catalog: Catalog, registry: Registry, path: tuple[str, ...]) -> Plan:
    """Return the plan of a graph; `path` are the graphs that lead to it, itself the last."""

    def describe(member: str) -> ModelDescription:
        if member in path:
            raise RequestError(f"it comes back to itself: {' -> '.join([*path, member])}. A graph has no cycles.")
        found = catalog.endpoints.get(member)
        if found.deleted:
            raise NotFoundError(f"endpoint {member!r} is being deleted.")
        if found.spec.graph is not None:
            inner = _plan(member, found.spec.graph, catalog, registry, (*path, member))
            return described(found, inner)
        id = registry.resolve(AssetKind.MODEL, parse_reference(found.spec.model))
        card = registry.open(id).manifest.model
        if card is None:
            raise NotFoundError(f"{id} is no model version.")
        return ModelDescription(name=member, version=str(id.seq), signature=card.signature)

    return plan_of(graph, describe)


def described(endpoint: Endpoint, plan: Plan) -> ModelDescription:
    """Return what a graph takes and answers; its version is the number of changes of its specification."""
    return ModelDescription(name=endpoint.name, version=str(endpoint.revision), signature=plan.signature)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    model: ModelDescription
    plan: Plan | None
    until_s: float


class GraphedEndpoints:
    """The endpoints of a platform, graphs among them: an `Endpoints` that asks another for those that are none."""

    def __init__(
        self,
        catalog: Catalog,
        inner: Endpoints,
        traces: GraphTraces | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._inner = inner
        self._traces = traces or GraphTraces()
        self._clock = clock
        self._known: dict[str, _Known] = {}

    def listed(self) -> Sequence[ListedEndpoint]:
        """See `Endpoints`."""
        return self._inner.listed()

    async def describe(self, name: str) -> ModelDescription:
        """See `Endpoints`; a graph is told by its members' signatures."""
        return (await self._found(name, ())).model

    async def infer(self, name: str, request: InferRequest) -> InferResponse:
        """See `Endpoints`.

        Raises:
            ForbiddenError: The caller may not call this graph.
        """
        found = await self._found(name, ())
        if found.plan is None:
            return await self._inner.infer(name, request)
        if not may_predict(scopes.get(), name):
            raise ForbiddenError(f"This key may not call endpoint {name!r}; it needs the scope predict:{name}.")
        with self._traces.span(name, found.model.version, traceparent.get(), request.id or "") as span:
            traceparent.set(span.traceparent)
            outputs = await Run(request, self.infer).outputs(found.plan.root)
        asked = [wanted.name for wanted in request.outputs] or list(outputs)
        for one in asked:
            if one not in outputs:
                raise RequestError(f"Field 'outputs' asks for {one!r}; there is {list(outputs)}.")
        if any(wanted.classes for wanted in request.outputs):
            raise RequestError("Parameter 'classification' is not offered by graphs; ask for probabilities.")
        return InferResponse(
            model=name, version=found.model.version, outputs=tuple(outputs[one] for one in asked), id=request.id
        )

    async def _found(self, name: str, path: tuple[str, ...]) -> _Known:
        known = self._known.get(name)
        if known is not None and self._clock() < known.until_s:
            return known
        endpoint = await asyncio.to_thread(self._catalog.endpoints.get, name)
        if endpoint.spec.graph is None or endpoint.deleted:
            found = _Known(model=await self._inner.describe(name), plan=None, until_s=self._clock() + PLANNED_FOR_S)
        else:
            if name in path:
                raise UnavailableError(f"Graph {name!r} comes back to itself; deploy it again without the cycle.")
            members = {one: (await self._found(one, (*path, name))).model for one in endpoints_in(endpoint.spec.graph)}
            plan = plan_of(endpoint.spec.graph, members.__getitem__)
            found = _Known(model=described(endpoint, plan), plan=plan, until_s=self._clock() + PLANNED_FOR_S)
        if len(self._known) > 1024:
            self._known.clear()
        self._known[name] = found
        return found
