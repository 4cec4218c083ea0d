"""The other replicas of an endpoint, and the one that asks, reached by Serve's handle: they answer parts of requests.

Whoever sent the request was let in by the replica that divides it; handles are inside the platform, so that parts carry
no key.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from lightmill.datasets.translate import original_error
from lightmill.errors import UnavailableError
from lightmill.models.answers import Rows
from lightmill.records.batching import Priority
from lightmill.serving.tensors import Array


class Siblings:
    """Asks a replica of an application, which Serve chooses."""

    def __init__(self, application: str) -> None:
        self._application = application
        self._handle: Any = None

    async def ask(self, features: Array, timeout_s: float | None, priority: Priority) -> Rows:
        """Return the answers to some rows.

        Raises:
            RequestError: The rows do not fit the model.
            UnavailableError: The replica is too busy or went away, or the time is over.
        """
        if self._handle is None:
            self._handle = await asyncio.to_thread(serve.get_app_handle, self._application)
        return await answer_of(self._handle.part.remote(features, timeout_s, priority), "the replica that computed it")


async def answer_of(response: Any, who: str) -> Any:
    """Return what a call by handle answers; who no longer waits for it ends it.

    Raises:
        LightmillError: What was called raised it.
        UnavailableError: `who` went away.
    """
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
    except (RayError, RayServeException) as exc:
        original = original_error(exc)
        if original is not None:
            raise original from exc
        raise UnavailableError(f"{who} went away; send the request again.") from exc
