"""Endpoints: deploy, watch, predict."""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from lightmill.errors import LightmillError, RequestError, UnavailableError
from lightmill.records.base import Record
from lightmill.records.endpoints import Endpoint, EndpointState
from lightmill.records.rollouts import ShadowDifference, TrafficReport
from lightmill.records.specs import EndpointSpec
from lightmill.sdk.specs import SpecLike, as_json, read_spec
from lightmill.sdk.transport import Transport, path

POLL_S = 0.3
Row = Sequence[float]


class Prediction(Record):
    """The answer for one row: the class index and the probability of every class."""

    label: int
    probabilities: tuple[float, ...]
    model_version: str


class Endpoints:
    """The platform's endpoints."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._inputs: dict[str, dict[str, Any]] = {}

    def deploy(
        self,
        spec: SpecLike,
        *,
        wait: bool = True,
        timeout_s: float = 300.0,
        on_progress: Callable[[Endpoint], None] | None = None,
    ) -> Endpoint:
        """Create or change an endpoint from `endpoint.yaml` or a mapping, and wait until it answers.

        Raises:
            NotFoundError: Its model, version or alias does not exist.
            LightmillError: It failed to start; the message says why.
            UnavailableError: It is not ready within `timeout_s`; it goes on starting.
        """
        parsed, _ = read_spec(EndpointSpec, spec)
        answer = self._transport.put(path("endpoints", parsed.name), as_json(parsed))
        endpoint = Endpoint.model_validate(answer)
        return self.wait(endpoint.name, timeout_s=timeout_s, on_progress=on_progress) if wait else endpoint

    def wait(
        self,
        name: str,
        *,
        timeout_s: float = 300.0,
        on_progress: Callable[[Endpoint], None] | None = None,
    ) -> Endpoint:
        """Return an endpoint once it answers with what it should; errors as `deploy`."""
        end = time.monotonic() + timeout_s
        while True:
            endpoint = self.show(name)
            if on_progress:
                on_progress(endpoint)
            if endpoint.state is EndpointState.READY:
                return endpoint
            if endpoint.state is EndpointState.FAILED:
                raise LightmillError(f"Endpoint {name} failed to start: {endpoint.message}")
            if time.monotonic() > end:
                raise UnavailableError(
                    f"Endpoint {name} is {endpoint.state} after {timeout_s:g} s: {endpoint.message or 'still starting'}"
                )
            time.sleep(POLL_S)

    def list(self) -> list[Endpoint]:
        """Return all endpoints."""
        return [Endpoint.model_validate(entry) for entry in self._transport.get(path("endpoints"))]

    def show(self, name: str) -> Endpoint:
        """Return one endpoint; NotFoundError if there is none."""
        return Endpoint.model_validate(self._transport.get(path("endpoints", name)))

    def delete(self, name: str) -> Endpoint:
        """Take an endpoint away; NotFoundError if there is none."""
        return Endpoint.model_validate(self._transport.delete(path("endpoints", name)))

    def traffic(self, name: str) -> TrafficReport:
        """Return how an endpoint's versions share its requests, and how they do; NotFoundError if there is none."""
        return TrafficReport.model_validate(self._transport.get(path("endpoints", name, "traffic")))

    def promote(self, name: str, candidate: str = "") -> TrafficReport:
        """Move an endpoint's alias to a candidate: its canary, or the only one, unless another is named.

        Raises:
            NotFoundError: There is no such endpoint or candidate.
            ConflictError: There is nothing to promote, or no alias that could move.
        """
        answer = self._transport.post(path("endpoints", name, "promote"), {"candidate": candidate})
        return TrafficReport.model_validate(answer)

    def rollback(self, name: str) -> TrafficReport:
        """End an endpoint's canary, or where none is under way, move its alias back to where it pointed before.

        Raises:
            NotFoundError: There is no such endpoint, or its alias never pointed elsewhere.
            ConflictError: There is no canary, and no alias.
        """
        return TrafficReport.model_validate(self._transport.post(path("endpoints", name, "rollback"), {}))

    def shadows(self, name: str, limit: int = 50) -> builtins.list[ShadowDifference]:
        """Return the newest rows that shadows answered otherwise than the stable version."""
        found = self._transport.get(path("endpoints", name, "shadows"), limit=limit)
        return [ShadowDifference.model_validate(entry) for entry in found]

    def metadata(self, name: str) -> dict[str, Any]:
        """Return the model metadata of the Open Inference Protocol: inputs, outputs, versions."""
        return self._transport.get(f"/v2/models/{quote(name, safe='')}")

    def predict(self, name: str, rows: Sequence[Row]) -> list[Prediction]:
        """Return a prediction for every row of features, in source units.

        Raises:
            RequestError: A row does not fit the endpoint's signature.
            NotFoundError: No such endpoint answers.
        """
        if not rows:
            return []
        if name not in self._inputs:
            self._inputs[name] = self.metadata(name)["inputs"][0]
        known = self._inputs[name]
        tensor = {
            "name": known["name"],
            "datatype": known["datatype"],
            "shape": [len(rows), *_shape_of(rows[0])],
            "data": [list(row) for row in rows],
        }
        try:
            answer = self._transport.post(f"/v2/models/{quote(name, safe='')}/infer", {"inputs": [tensor]})
        except RequestError:
            self._inputs.pop(name, None)  # the endpoint may serve another model by now
            raise
        outputs = {output["name"]: output for output in answer["outputs"]}
        return _predictions(outputs, answer["model_version"])


def _shape_of(value: Any) -> list[int]:
    shape = []
    while isinstance(value, Sequence) and not isinstance(value, str):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _predictions(outputs: dict[str, Any], version: str) -> list[Prediction]:
    labels = outputs["label"]["data"]
    flat = outputs["probabilities"]["data"]
    width = len(flat) // len(labels)
    return [
        Prediction(
            label=label,
            probabilities=tuple(flat[n * width : (n + 1) * width]),
            model_version=version,
        )
        for n, label in enumerate(labels)
    ]
