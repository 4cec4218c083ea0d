"""One endpoint's HTTP service, as raw ASGI: authenticate, parse, batch, compute, answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from time import perf_counter
from typing import Any

from lightmill.errors import LightmillError, NotFoundError
from lightmill.models.answers import Rows
from lightmill.models.inputs import TabularInputs
from lightmill.records.assets import ModelCard
from lightmill.records.batching import Priority
from lightmill.records.references import VersionId
from lightmill.serving import phases
from lightmill.serving.asgi import (
    SMALL_BYTES,
    BodyReader,
    Gate,
    Receive,
    Scope,
    Send,
    allow,
    encoded,
    error_reply,
    json_reply,
    lifespan,
    send_reply,
)
from lightmill.serving.batcher import Computes
from lightmill.serving.dividing import Divider
from lightmill.serving.fitting import Fitter
from lightmill.serving.front import CALLER, PHASES, Phases
from lightmill.serving.leaving import Departures
from lightmill.serving.protocols import docs, oip, openapi
from lightmill.serving.protocols.forms import Reply
from lightmill.serving.protocols.negotiation import Head, adapter_for
from lightmill.serving.scaling.signals import LoadSignals
from lightmill.serving.signals.predictions import Predicted, PredictionLog
from lightmill.serving.statistics import Outcome, Statistics
from lightmill.serving.tensors import Array, InferRequest, InferResponse, ModelDescription
from lightmill.serving.traffic.traffic import Traffic

GONE = 499
ROUTES = ("", "/ready", "/infer", "/stats", "/openapi.json", "/docs")
PRIORITIES: tuple[Priority, ...] = ("normal", "high", "low")
"""The classes of waiting by the number that a request gives: 0 for none, 1 the highest, as Triton has it."""
logger = logging.getLogger("lightmill.serving")


class InferenceService:
    """Answers `/v2/models/<endpoint>` and below for one model version.

    `check` refuses features that fit the signature and yet not the model, before they are batched with others. `gate`
    says who may ask, `predictions` is the log of rows and answers, if there is one, `traffic` shares requests with
    other versions, if there are candidates; all may be replaced while it runs. `divider` divides large requests over
    replicas, if the endpoint asks for it.
    """

    def __init__(
        self,
        endpoint: str,
        version: VersionId,
        card: ModelCard,
        batcher: Computes,
        gate: Gate | None,
        *,
        check: Callable[[Array], None] | None = None,
        allow_python: bool = False,
        load: LoadSignals | None = None,
        statistics: Statistics | None = None,
        bodies: BodyReader | None = None,
    ) -> None:
        tabular = TabularInputs(card.preparation, allow_python=allow_python) if card.preparation else None
        self.description = ModelDescription(
            name=endpoint,
            version=str(version.seq),
            signature=card.signature,
            by_column=tabular is not None,
            classes=card.classes,
        )
        self.gate = gate
        self.load = load or LoadSignals()
        self.predictions: PredictionLog | None = None
        self.divider: Divider | None = None
        self.traffic: Traffic | None = None
        self._prefix = f"/v2/models/{endpoint}"
        self._fitter = Fitter(self.description, tabular, check)
        self._batcher = batcher
        self._departures = Departures()
        self._statistics = statistics or Statistics()
        self._bodies = bodies or BodyReader()
        self._metadata = json_reply(oip.metadata(self.description))
        self._ready = json_reply(b'{"name":"%s","ready":true}' % endpoint.encode())
        self._openapi: Reply | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await lifespan(receive, send)

    async def infer(self, request: InferRequest, caller: str = "", *, copy: bool = False) -> InferResponse:
        """Answer a request that came another way, such as through the gateway; `caller` is the id of who asks.

        A `copy` is answered to be compared: no client sees the answer, and no log of predictions keeps it.

        Raises:
            RequestError: It does not fit the model; the message names the field.
        """
        features = self._fitter.features(request)
        traffic = self.traffic
        if traffic is not None:
            found = await traffic.consult(request, _no_header, caller)
            if found is not None:
                return found
        work = self._predict(features, request, None)
        arrays = (await (work if traffic is None else traffic.timed(work))).arrays()
        response = self._fitter.response(request, arrays)
        if not copy and self.predictions is not None and self.predictions.wants():
            size_bytes = sum(tensor.array.nbytes for tensor in request.inputs)
            self.predictions.offer(_predicted(request.id or "", len(features), request, arrays, size_bytes))
        if traffic is not None:
            traffic.shadow(request, response, request.id or "")
        return response

    async def part(self, features: Array, timeout_s: float | None, priority: Priority) -> Rows:
        """Answer a part of a request that another replica divided: features that it has fitted to the model.

        Raises:
            UnavailableError: Too much waits here, or the answer was not there in time.
        """
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        return await self._batcher.predict(features, deadline=deadline, priority=priority)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._route(scope)
        if route == "/docs" and scope["method"] == "GET":
            # The page holds nothing of the model: it asks for a key and then for the description, in the browser.
            await send_reply(send, 200, docs.page())
            return
        gate, caller = self.gate, None
        try:
            caller = gate.admit(scope) if gate is not None else None
            if route == "/infer":
                await self._answer_infer(scope, receive, send)
                return
            status, reply = 200, self._described(route, scope)
        except LightmillError as exc:
            status, reply = error_reply(exc)
        except Exception:
            logger.exception("a request failed")
            status, reply = 500, json_reply(oip.error("The replica failed on this request; its log says why."))
        finally:
            if gate is not None and caller is not None:
                gate.release(caller)
        await send_reply(send, status, reply)

    async def _answer_infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        told: Phases = scope.get(PHASES) or Phases()
        outcome = Outcome(started=perf_counter(), status=GONE)
        try:
            try:
                allow(scope["method"], "POST")
                head = Head.of(scope["headers"])
                reply = await self._inferred(scope, head, receive, outcome, told)
                if head.accept_encoding is not None:
                    reply = await encoded(reply, head)
                outcome.status = 200
            except LightmillError as exc:
                told.error = type(exc).__name__
                outcome.status, reply = error_reply(exc)
            except ConnectionError:
                return
            except Exception as exc:
                told.error = type(exc).__name__
                logger.exception("inference failed")
                text = oip.error("The model failed on this request; the replica's log says why.")
                outcome.status, reply = 500, json_reply(text)
            await send_reply(send, outcome.status, reply)
        finally:
            outcome.ended = perf_counter()
            self._statistics.observe(outcome)

    async def _inferred(self, scope: Scope, head: Head, receive: Receive, outcome: Outcome, told: Phases) -> Reply:
        body = await self._bodies.read(head, receive)
        try:
            model = self.description
            adapter = adapter_for(head, scope.get("query_string", b""), body, by_column=model.by_column)
            told.protocol = adapter.name
            request = adapter.parse(body, model, adapter.form)
            features = self._fitter.features(request)
            outcome.rows = told.rows = len(features)
            outcome.parsed = perf_counter()
            times = phases.Phases()
            traffic = self._traffic_of(scope)
            if traffic is not None:
                asked = traffic.consult(request, header_of(scope), caller_of(scope))
                other = await self._departures.while_connected(asked, receive)
                if other is not None:
                    outcome.predicted = perf_counter()
                    reply = adapter.write(other, request)
                    outcome.written = perf_counter()
                    return reply
            spent_s = perf_counter() - outcome.parsed if traffic is not None else 0.0
            work = self._predict(features, request, times, spent_s)
            if traffic is not None:
                work = traffic.timed(work)
            answers = await self._departures.while_connected(work, receive)
            told.queue_s, told.batch_wait_s, told.compute_s = times.queue_s, times.batch_s, times.compute_s
            outcome.waited_s = times.queue_s + times.batch_s
            outcome.predicted = perf_counter()
            arrays = answers.arrays()
            response = self._fitter.response(request, arrays)
            reply = adapter.write(response, request)
            outcome.written = perf_counter()
            if self.predictions is not None and self.predictions.wants():
                self.predictions.offer(_predicted(told.request_id, told.rows, request, arrays, len(body)))
            if traffic is not None:
                traffic.shadow(request, response, told.request_id)
            return reply
        finally:
            if len(body) > SMALL_BYTES:
                self._bodies.release(body)

    async def _predict(
        self, features: Array, request: InferRequest, times: phases.Phases | None, spent_s: float = 0.0
    ) -> Any:
        deadline = None
        if request.timeout_s is not None:
            deadline = asyncio.get_running_loop().time() + request.timeout_s - spent_s
        priority = PRIORITIES[min(request.priority, 2)]
        if self.divider is not None and self.divider.divides(len(features)):
            return await self.divider.answer(features, deadline, priority)
        return await self._batcher.predict(features, deadline=deadline, priority=priority, phases=times)

    def _described(self, route: str | None, scope: Scope) -> Reply:
        """Return the answer of a route that asks the model for nothing.

        Raises:
            NotFoundError: There is no such route, or the version is another.
            MethodNotAllowedError: The method is not GET.
        """
        if route is None:
            asked = self._path(scope).split("/")[2]
            served = self.description
            raise NotFoundError(f"Endpoint {served.name!r} serves version {served.version}, not {asked!r}.")
        if route not in ROUTES:
            routes = ", ".join(f"...{route}" for route in ROUTES[1:])
            raise NotFoundError(f"No route {scope['path']!r}; there are {self._prefix}, {routes}.")
        allow(scope["method"], "GET")
        if route == "":
            return self._metadata
        if route == "/ready":
            return self._ready
        if route == "/stats":
            return json_reply(self._statistics.report(self.description))
        if self._openapi is None:
            self._openapi = json_reply(openapi.document(self.description))
        return self._openapi

    def _traffic_of(self, scope: Scope) -> Traffic | None:
        """Return who shares this request with other versions; nobody where the request names the version."""
        if self.traffic is None or self._path(scope).startswith("/versions/"):
            return None
        return self.traffic

    def _path(self, scope: Scope) -> str:
        return scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")

    def _route(self, scope: Scope) -> str | None:
        """Return the path below the model without a version that is the current one, None if it is another."""
        route = self._path(scope)
        if not route.startswith("/versions/"):
            return route
        asked, _, rest = route.removeprefix("/versions/").partition("/")
        if asked != self.description.version:
            return None
        return f"/{rest}" if rest else ""


def header_of(scope: Scope) -> Callable[[bytes], bytes | None]:
    """Return what gives the first value of a header of a request."""
    return lambda name: next((value for found, value in scope["headers"] if found == name), None)


def caller_of(scope: Scope) -> str:
    """Return the id of who sends a request, empty where nobody was asked for."""
    caller = scope.get(CALLER)
    return caller.id if caller is not None else ""


def _no_header(name: bytes) -> bytes | None:
    return None


def _predicted(
    request_id: str, rows: int, request: InferRequest, outputs: dict[str, Array], size_bytes: int
) -> Predicted:
    """Return what the prediction log keeps of a request."""
    return Predicted(
        at=time.time(),
        request_id=request_id,
        rows=rows,
        inputs={tensor.name: tensor.array for tensor in request.inputs},
        outputs=outputs,
        size_bytes=size_bytes,
    )
