"""One endpoint's HTTP service, as raw ASGI: authenticate, parse, batch, compute, answer."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import numpy.typing as npt

from lightmill.access import KeyChecker
from lightmill.errors import LightmillError, MethodNotAllowedError, NotFoundError, TooBusyError, TooLargeError
from lightmill.models.inputs import TabularInputs
from lightmill.records.assets import ModelCard
from lightmill.records.references import VersionId
from lightmill.serving import oip
from lightmill.serving.batcher import Batcher
from lightmill.serving.leaving import Departures
from lightmill.serving.scaling.signals import LoadSignals

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
MAX_BODY_BYTES = 64 << 20
JSON_HEADERS = [(b"content-type", b"application/json")]
logger = logging.getLogger("lightmill.serving")


class InferenceService:
    """Answers `/v2/models/<endpoint>` and below for one model version.

    `check` refuses features that fit the signature and yet not the model, before they are batched with others.
    """

    def __init__(
        self,
        endpoint: str,
        version: VersionId,
        card: ModelCard,
        batcher: Batcher,
        keys: KeyChecker,
        *,
        check: Callable[[npt.NDArray[Any]], None] | None = None,
        allow_python: bool = False,
        signals: LoadSignals | None = None,
    ) -> None:
        self.signals = signals or LoadSignals()
        self._endpoint = endpoint
        self._version = version
        self._signature = card.signature
        self._inputs = TabularInputs(card.preparation, allow_python=allow_python) if card.preparation else None
        self._check = check
        self._batcher = batcher
        self._departures = Departures()
        self.keys = keys
        self._metadata = oip.metadata(endpoint, [str(version.seq)], card.signature)
        self._ready = b'{"name":"%s","ready":true}' % endpoint.encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        more: list[tuple[bytes, bytes]] = []
        try:
            self.keys.check_headers(scope["headers"])
            status, body = 200, await self._answer(scope, receive)
        except LightmillError as exc:
            status, body = exc.status, oip.error(exc.message)
            if isinstance(exc, TooBusyError):
                more.append((b"retry-after", b"%d" % math.ceil(exc.retry_after_s)))
        except ConnectionError:
            return
        except Exception:
            logger.exception("inference failed")
            status, body = 500, oip.error("The model failed on this request; the replica's log says why.")
        headers = [*JSON_HEADERS, (b"content-length", str(len(body)).encode()), *more]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes:
        method = scope["method"]
        route = self._route(scope)
        if route == "/infer":
            _allow(method, "POST")
            return await self._infer(await _read_body(scope, receive), receive)
        if route == "":
            _allow(method, "GET")
            return self._metadata
        if route == "/ready":
            _allow(method, "GET")
            return self._ready
        raise NotFoundError(
            f"No route {scope['path']!r}; there are /v2/models/{self._endpoint}, .../ready and .../infer."
        )

    def _route(self, scope: MutableMapping[str, Any]) -> str:
        """Return the path below the model, with a version that is the current one taken out."""
        route = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        if route.startswith("/versions/"):
            asked, _, rest = route.removeprefix("/versions/").partition("/")
            if asked != str(self._version.seq):
                raise NotFoundError(f"Endpoint {self._endpoint!r} serves version {self._version.seq}, not {asked!r}.")
            route = f"/{rest}" if rest else ""
        return route

    async def _infer(self, body: bytes, receive: Receive) -> bytes:
        request = oip.parse_infer(body, self._signature, self._inputs)
        if self._check:
            self._check(request.features)
        answers = await self._departures.while_connected(self._batcher.predict(request.features), receive)
        return oip.format_infer(self._endpoint, str(self._version.seq), request, self._signature, answers.arrays())


def _allow(method: str, wanted: str) -> None:
    if method != wanted:
        raise MethodNotAllowedError(f"Use {wanted} on this route, not {method}.")


async def _read_body(scope: MutableMapping[str, Any], receive: Receive) -> bytes:
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise TooLargeError(f"The body has {int(declared)} bytes; at most {MAX_BODY_BYTES} are taken.")
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client went away")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > MAX_BODY_BYTES:
            raise TooLargeError(f"The body is larger than {MAX_BODY_BYTES} bytes.")
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
