"""The port through which a stable version's replica asks candidates, and its adapter to Serve's handles."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from lightmill.errors import LightmillError, UnavailableError
from lightmill.serving.signals.recorder import Recorder
from lightmill.serving.tensors import InferRequest, InferResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Consulted:
    """A candidate's answer, and how many seconds it took there, without the way."""

    response: InferResponse
    seconds: float


class Candidates(Protocol):
    """The candidates of an endpoint, by the names of their applications."""

    async def consult(self, application: str, request: InferRequest, *, copy: bool) -> Consulted:
        """Return a candidate's answer. A request may be repeated elsewhere after any error: it changes nothing.

        A `copy` is a shadow's: its answer is only compared.

        Raises:
            LightmillError: What the candidate said instead.
            UnavailableError: It is not reached.
        """
        ...


async def consulted(answer: Awaitable[InferResponse], recorder: Recorder) -> Consulted:
    """Return what a candidate's service answers, timed and counted in its own metrics."""
    started, status, error = perf_counter(), 500, None
    recorder.running += 1
    try:
        response = await answer
        status = 200
        return Consulted(response=response, seconds=perf_counter() - started)
    except LightmillError as exc:
        status, error = exc.status, type(exc).__name__
        raise
    finally:
        recorder.running -= 1
        recorder.request(status, perf_counter() - started, "handle", error)


class ServeCandidates:
    """Candidates as Serve applications without a route. Handles are made when they are first used."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    async def consult(self, application: str, request: InferRequest, *, copy: bool) -> Consulted:
        """See `Candidates`."""
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        from lightmill.datasets.translate import original_error

        try:
            handle = self._handles.get(application)
            if handle is None:
                handle = self._handles[application] = await asyncio.to_thread(serve.get_app_handle, application)
            return await handle.consult.remote(request, copy)
        except (RayError, RayServeException) as exc:
            original = original_error(exc)
            if original is not None:
                raise original from exc
            self._handles.pop(application, None)
            raise UnavailableError(f"Candidate {application!r} does not answer: {type(exc).__name__}.") from exc
