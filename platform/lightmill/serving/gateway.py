"""The gateway: the platform's own routes, and protocols that name the model elsewhere than in an endpoint's route.

Raw ASGI, and nothing of Ray: models are reached through the port `Endpoints`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import Any

from lightmill.errors import LightmillError, NotFoundError, NotOfferedError, RequestError
from lightmill.serving.asgi import (
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
from lightmill.serving.endpoints import Endpoints, check_version
from lightmill.serving.protocols import oip, v1
from lightmill.serving.protocols.forms import Reply
from lightmill.serving.protocols.negotiation import Adapter, Head, adapter_for
from lightmill.serving.protocols.values import as_object, dump, load
from lightmill.serving.tensors import ModelDescription

# An endpoint's name, its version if it is given, and what is asked of it.
_V2 = re.compile(r"/v2/models/(?P<name>[^/:]+)(/versions/(?P<version>[^/:]+))?(?P<rest>/infer|/ready)?")
_V1 = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>[^/:]+)|/labels/(?P<label>[^/:]+))?"
    r"(?P<rest>/metadata|:(?P<verb>[a-z]+))?"
)
_LOAD = re.compile(r"/v2/repository/models/(?P<name>[^/]+)/(?P<verb>load|unload)")
logger = logging.getLogger("lightmill.serving")


class Gateway:
    """Answers `/v2` and `/v1` for all endpoints of a platform.

    `gate` is asked first. What the server is, and whether it lives and is ready, the control API tells, to everybody.
    """

    def __init__(self, endpoints: Endpoints, gate: Gate, *, bodies: BodyReader | None = None) -> None:
        self.gate = gate
        self._endpoints = endpoints
        self._bodies = bodies or BodyReader()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = Head.of(scope["headers"])
        gate, caller = self.gate, None
        try:
            path = scope["path"].rstrip("/")
            caller = gate.admit(scope)
            status, reply = 200, await encoded(await self._answer(path, scope, head, receive), head)
        except LightmillError as exc:
            status, reply = error_reply(exc)
        except ConnectionError:
            return
        except Exception:
            logger.exception("a request through the gateway failed")
            status, reply = 500, json_reply(oip.error("The gateway failed on this request; its log says why."))
        finally:
            if caller is not None:
                gate.release(caller)
        await send_reply(send, status, reply)

    async def _answer(self, path: str, scope: Scope, head: Head, receive: Receive) -> Reply:
        method = scope["method"]
        if path == "/v1/models":
            allow(method, "GET")
            return json_reply(dump({"models": [each.name for each in self._endpoints.listed()]}))
        if path == "/v2/repository/index":
            return await self._index(method, head, receive)
        if found := _LOAD.fullmatch(path):
            allow(method, "POST")
            raise NotOfferedError(
                f"Models are not loaded and unloaded by this protocol: to serve {found['name']!r} deploy an endpoint "
                "('lightmill deploy'), to end it delete the endpoint."
            )
        if found := _V1.fullmatch(path):
            return await self._v1(found, method, head, receive, scope)
        if found := _V2.fullmatch(path):
            return await self._v2(found, method, head, receive, scope)
        raise NotFoundError(
            f"No route {path!r}; there are /v2/repository/index, "
            "/v2/models/<endpoint>[/infer|/ready], /v1/models and /v1/models/<endpoint>[:predict|/metadata]."
        )

    async def _index(self, method: str, head: Head, receive: Receive) -> Reply:
        allow(method, "POST")
        body = await self._bodies.read(head, receive)
        try:
            asked = as_object(load(body)) if body.strip() else {}
        finally:
            self._bodies.release(body)
        ready = asked.get("ready", False)
        if type(ready) is not bool:
            raise RequestError("Field 'ready' must be true or false.")
        return json_reply(
            dump(
                [
                    {
                        "name": each.name,
                        "version": each.version,
                        "state": "READY" if each.ready else "UNAVAILABLE",
                        "reason": each.reason,
                    }
                    for each in self._endpoints.listed()
                    if each.ready or not ready
                ]
            )
        )

    async def _v2(self, found: re.Match[str], method: str, head: Head, receive: Receive, scope: Scope) -> Reply:
        allow(method, "POST" if found["rest"] == "/infer" else "GET")
        model = await self._endpoints.describe(found["name"])
        check_version(model, found["version"] or "")
        if found["rest"] == "/ready":
            return json_reply(dump({"name": model.name, "ready": True}))
        if found["rest"] is None:
            return json_reply(oip.metadata(model))
        return await self._inferred(model, None, head, receive, scope)

    async def _v1(self, found: re.Match[str], method: str, head: Head, receive: Receive, scope: Scope) -> Reply:
        verb = found["verb"]
        allow(method, "POST" if verb else "GET")
        if found["label"]:
            raise NotOfferedError(
                f"Versions have no labels here; an endpoint serves one version: given {found['label']!r}."
            )
        model = await self._endpoints.describe(found["name"])
        check_version(model, found["version"] or "")
        if verb is None:
            return json_reply(v1.metadata(model) if found["rest"] else v1.status(model))
        if verb != "predict":
            v1.refuse(verb)
        return await self._inferred(model, v1, head, receive, scope)

    async def _inferred(
        self, model: ModelDescription, protocol: Any, head: Head, receive: Receive, scope: Scope
    ) -> Reply:
        body = await self._bodies.read(head, receive)
        try:
            query = scope.get("query_string", b"")
            adapter = adapter_for(head, query, body, by_column=model.by_column and protocol is None)
            if protocol is not None:
                adapter = Adapter(parse=protocol.parse, write=protocol.write, form=adapter.form)
            request = adapter.parse(body, model, adapter.form)
            response = await self._endpoints.infer(model.name, request)
            return adapter.write(replace(response, id=request.id), request)
        finally:
            self._bodies.release(body)
