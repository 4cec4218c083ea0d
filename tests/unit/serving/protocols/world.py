"""A served model without torch: it answers what it was asked with, so that every protocol shows what arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lightmill.access import KeyChecker, mint_key
from lightmill.errors import NotFoundError
from lightmill.records.assets import ModelCard
from lightmill.records.fitted import TabularPreparation
from lightmill.records.references import VersionId
from lightmill.records.signature import Architecture, Datatype, Preprocessing, Signature, TensorSpec
from lightmill.serving.asgi import KeyGate
from lightmill.serving.batcher import Batcher
from lightmill.serving.endpoints import ListedEndpoint
from lightmill.serving.service import InferenceService
from lightmill.serving.tensors import InferRequest, InferResponse, ModelDescription
from tests.unit.registry.world import MODEL

TEXT, KEY = mint_key("test")
AUTHORIZED = ((b"authorization", b"Bearer " + TEXT.encode()),)
VERSION = VersionId(kind=MODEL, name="echo", seq=4, digest="ab" * 32)
ROOT = "/v2/models/echo"


@dataclass(frozen=True, kw_only=True)
class Echo:
    """`same` is the features, `largest` the place of the largest in each row."""

    same: npt.NDArray[Any]

    def rows(self, start: int, stop: int) -> Echo:
        return Echo(same=self.same[start:stop])

    @classmethod
    def joined(cls, parts: Sequence[Echo]) -> Echo:
        return cls(same=np.concatenate([part.same for part in parts]))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        flat = self.same.reshape(len(self.same), -1)
        largest = flat.argmax(axis=1) if flat.shape[1] else np.zeros(len(flat), dtype=np.int64)
        return {"same": self.same, "largest": largest.astype(np.int64)}


def signature(datatype: Datatype = "FP32", shape: tuple[int, ...] = (-1, 3)) -> Signature:
    return Signature(
        inputs=(TensorSpec(name="x", datatype=datatype, shape=shape),),
        outputs=(
            TensorSpec(name="same", datatype=datatype, shape=shape),
            TensorSpec(name="largest", datatype="INT64", shape=(-1,)),
        ),
    )


def tabular_signature(inputs: tuple[TensorSpec, ...], width: int) -> Signature:
    same = TensorSpec(name="same", datatype="FP32", shape=(-1, width))
    return Signature(inputs=inputs, outputs=(same, TensorSpec(name="largest", datatype="INT64", shape=(-1,))))


def card(of: Signature, preparation: TabularPreparation | None = None, classes: tuple[str, ...] = ()) -> ModelCard:
    return ModelCard(
        architecture=Architecture(name="echo"),
        preprocessing=Preprocessing(),
        signature=of,
        classes=classes,
        metrics={},
        preparation=preparation,
    )


def service(of: Signature | None = None, **options: Any) -> InferenceService:
    of = of or signature()
    observers = options.pop("observers", ())
    batcher = Batcher(lambda features: Echo(same=features), max_rows=64, max_wait_s=0, inline=True, observers=observers)
    made = card(of, options.pop("preparation", None), options.pop("classes", ()))
    return InferenceService("echo", VERSION, made, batcher, KeyGate(KeyChecker([KEY])), **options)


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


def ask(
    app: Any,
    body: bytes = b"",
    *,
    path: str = f"{ROOT}/infer",
    method: str = "POST",
    headers: Sequence[tuple[bytes, bytes]] = (),
    query: bytes = b"",
    root_path: str = "",
    key: Sequence[tuple[bytes, bytes]] = AUTHORIZED,
    piece: int | None = None,
) -> Answer:
    """Send one request as a server does, in pieces of `piece` bytes if it is given."""
    step = piece or max(1, len(body))
    parts = [body[at : at + step] for at in range(0, len(body), step)] or [b""]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": root_path,
        "query_string": query,
        "headers": [*headers, *key],
    }
    if not root_path and path.startswith(ROOT) and isinstance(app, InferenceService):
        scope["root_path"] = ROOT
    asyncio.run(app(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    answer = Answer(status=sent[0]["status"], headers=dict(sent[0]["headers"]), body=sent[1]["body"])
    assert int(answer.headers[b"content-length"]) == len(answer.body)
    return answer


class Joined:
    """Endpoints of services in this process."""

    def __init__(self, *services: InferenceService) -> None:
        self.services = {each.description.name: each for each in services}
        self.asleep = ListedEndpoint(name="asleep", version="1", ready=False, reason="deploying")

    def listed(self) -> Sequence[ListedEndpoint]:
        found = [
            ListedEndpoint(name=name, version=each.description.version, ready=True)
            for name, each in self.services.items()
        ]
        return [self.asleep, *found]

    async def describe(self, name: str) -> ModelDescription:
        if name not in self.services:
            raise NotFoundError(f"No endpoint {name!r}; there are {', '.join(self.services)}.")
        return self.services[name].description

    async def infer(self, name: str, request: InferRequest) -> InferResponse:
        return await self.services[name].infer(request)
