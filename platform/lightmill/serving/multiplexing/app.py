"""The HTTP side of many models, as raw ASGI: a request goes to the service of the model that its header names.

A service for a model reads and writes its requests by its card alone. What computes is wherever the model is in memory:
here if it is here, else on the replica that Serve knows to have it, or chooses to load it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from lightmill.errors import RequestError
from lightmill.models.answers import Rows
from lightmill.records.batching import Priority
from lightmill.records.references import VersionId
from lightmill.serving.asgi import Receive, Scope, Send
from lightmill.serving.multiplexing.naming import Names
from lightmill.serving.phases import Phases
from lightmill.serving.service import InferenceService
from lightmill.serving.tensors import Array

HEADER = b"x-model"
MOST_SERVICES = 4096
Ask = Callable[[VersionId, Array, float | None, Priority], Awaitable[Rows]]
"""Answers rows with a model, within so many seconds, in a class of waiting."""


class Asking:
    """Stands for the batcher of a model that is somewhere."""

    def __init__(self, version: VersionId, ask: Ask) -> None:
        self._version = version
        self._ask = ask

    async def predict(
        self,
        features: Array,
        *,
        deadline: float | None = None,
        priority: Priority = "normal",
        phases: Phases | None = None,
    ) -> Rows:
        """Return the model's answers; see `Batcher.predict`. Its phases are those of another replica, and not told."""
        del phases
        left_s = None if deadline is None else deadline - asyncio.get_running_loop().time()
        return await self._ask(self._version, features, left_s, priority)


class Multiplexed:
    """Answers requests that name a model with that model's service, and others with the endpoint's own."""

    def __init__(
        self, own: InferenceService, names: Names, service_of: Callable[[VersionId], InferenceService]
    ) -> None:
        """Serve `own`, and what `service_of` makes of a version; both may block, and are called in a thread."""
        self._own = own
        self._names = names
        self._service_of = service_of
        self._services: dict[VersionId, InferenceService] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection.

        Raises:
            RequestError: The header is no name, or no such model is served here; the door before this tells it.
        """
        name = next((value for key, value in scope.get("headers", ()) if key == HEADER), None)
        service = self._own if name is None else await self._service(name)
        await service(scope, receive, send)

    async def _service(self, value: bytes) -> InferenceService:
        try:
            name = value.decode("ascii").strip()
        except UnicodeDecodeError:
            raise RequestError("Header x-model must be the name of a model.") from None
        version = self._names.known(name) or await asyncio.to_thread(self._names.version, name)
        found = self._services.get(version)
        if found is None:
            found = await asyncio.to_thread(self._service_of, version)
            if len(self._services) >= MOST_SERVICES:
                del self._services[next(iter(self._services))]
            self._services[version] = found
        return found
