"""One endpoint over raw ASGI, with a real classifier, a real batcher and real keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightmill.access import KeyChecker, mint_key
from lightmill.models.answers import Answers, signature_of
from lightmill.models.classifier import Classifier
from lightmill.records.assets import ModelCard
from lightmill.records.references import VersionId
from lightmill.records.signature import Architecture, Preprocessing, Standardize, TensorSpec
from lightmill.serving.asgi import MAX_BODY_BYTES, KeyGate
from lightmill.serving.batcher import Batcher
from lightmill.serving.service import InferenceService
from tests.unit.models.test_language_model import model as language_model
from tests.unit.registry.world import MODEL

TEXT, KEY = mint_key("test")
AUTHORIZED = ((b"authorization", b"Bearer " + TEXT.encode()),)
VERSION = VersionId(kind=MODEL, name="digits", seq=4, digest="ab" * 32)
ROOT = "/v2/models/digits"


def classifier() -> Classifier:
    module = nn.Linear(2, 3)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
        module.bias.zero_()
    card = ModelCard(
        architecture=Architecture(name="logistic", arguments={"inputs": 2, "classes": 3}),
        preprocessing=Preprocessing(steps=(Standardize(mean=(1.0, 0.0), scale=(2.0, 1.0)),)),
        signature=signature_of(TensorSpec(name="x", datatype="FP32", shape=(2,)), 3),
        classes=("a", "b", "c"),
        metrics={},
    )
    return Classifier(card, module)


MODEL_UNDER_TEST = classifier()


@dataclass(kw_only=True)
class Response:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def service(compute: Any = None) -> InferenceService:
    batcher = Batcher(compute or MODEL_UNDER_TEST.predict, max_rows=16, max_wait_s=0, inline=True)
    return InferenceService("digits", VERSION, MODEL_UNDER_TEST.card, batcher, KeyGate(KeyChecker([KEY])))


def ask(
    method: str,
    path: str,
    parts: Iterable[bytes] = (b"",),
    *,
    headers: Iterable[tuple[bytes, bytes]] = AUTHORIZED,
    app: InferenceService | None = None,
    disconnect_after: int | None = None,
    root_path: str = ROOT,
) -> Response | None:
    """Send one request as a server does; None if the application sent no response."""
    chunks = list(parts)
    sent: list[dict[str, Any]] = []
    position = 0

    async def receive() -> dict[str, Any]:
        nonlocal position
        if disconnect_after is not None and position >= disconnect_after:
            return {"type": "http.disconnect"}
        position += 1
        return {"type": "http.request", "body": chunks[position - 1], "more_body": position < len(chunks)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "root_path": root_path, "headers": list(headers)}
    under_test = app or service()
    asyncio.run(under_test(scope, receive, send))
    if not sent:
        return None
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return Response(status=sent[0]["status"], headers=dict(sent[0]["headers"]), body=sent[1]["body"])


def answered(*arguments: Any, **options: Any) -> Response:
    response = ask(*arguments, **options)
    assert response is not None
    assert response.headers[b"content-type"] == b"application/json"
    assert int(response.headers[b"content-length"]) == len(response.body)
    return response


def body(rows: list[list[float]], **fields: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(rows), 2], "data": rows}
    return json.dumps({"inputs": [tensor], **fields}).encode()


def test_a_prediction_is_what_the_preparation_and_the_model_say() -> None:
    response = answered("POST", f"{ROOT}/infer", [body([[5.0, 0.0], [1.0, 3.0]], id="r-9")])
    assert response.status == 200
    assert (response.json["model_name"], response.json["model_version"], response.json["id"]) == ("digits", "4", "r-9")
    outputs = {output["name"]: output for output in response.json["outputs"]}
    assert outputs["label"]["data"] == [0, 1]
    logits = np.array([[2.0, 0.0, -2.0], [0.0, 3.0, -3.0]])
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.reshape(outputs["probabilities"]["data"], (2, 3)), expected, rtol=1e-5)
    assert outputs["probabilities"]["shape"] == [2, 3]


def test_the_other_header_takes_a_key_too() -> None:
    assert answered("GET", ROOT, headers=[(b"x-api-key", TEXT.encode())]).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"authorization", b"Bearer nonsense"),),
        ((b"authorization", b"Basic " + TEXT.encode()),),
        ((b"authorization", b"Bearer " + TEXT[:-1].encode() + b"!"),),
        ((b"x-api-key", mint_key("stranger")[0].encode()),),
    ],
    ids=["none", "malformed", "other scheme", "damaged", "unknown"],
)
@pytest.mark.parametrize("path", ["", "/ready", "/infer", "/nowhere", "/versions/4/infer"])
def test_nothing_is_answered_without_a_good_key(headers: Any, path: str) -> None:
    response = answered("POST", ROOT + path, [body([[1, 2]])], headers=headers)
    assert response.status == 401
    assert response.headers[b"www-authenticate"] == b"Bearer"
    assert set(response.json) == {"error"}
    assert TEXT not in response.json["error"]


def test_keys_are_exchanged_while_it_runs() -> None:
    app = service()
    other_text, other = mint_key("other")
    app.gate = KeyGate(KeyChecker([other]))
    assert answered("GET", ROOT, app=app).status == 401
    assert answered("GET", ROOT, app=app, headers=[(b"x-api-key", other_text.encode())]).status == 200


@pytest.mark.parametrize("path", ["/nowhere", "/infer/x", "/versions/3/infer", "/versions/3", "/versions/04/infer"])
def test_a_route_or_version_that_is_not_there_is_not_found_by_name(path: str) -> None:
    response = answered("GET", ROOT + path)
    assert response.status == 404
    assert "digits" in response.json["error"]


def test_another_version_says_which_one_is_served() -> None:
    error = answered("POST", f"{ROOT}/versions/3/infer", [body([[1, 2]])]).json["error"]
    assert "4" in error and "'3'" in error


@pytest.mark.parametrize(("method", "path"), [("GET", "/infer"), ("PUT", "/infer"), ("POST", ""), ("DELETE", "/ready")])
def test_another_method_is_refused_with_the_right_one(method: str, path: str) -> None:
    response = answered(method, ROOT + path)
    assert response.status == 405
    assert ("POST" if path == "/infer" else "GET") in response.json["error"]


def test_metadata_and_readiness() -> None:
    found = answered("GET", ROOT).json
    assert (found["name"], found["versions"]) == ("digits", ["4"])
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert answered("GET", f"{ROOT}/ready").json == {"name": "digits", "ready": True}


@pytest.mark.parametrize("prefix", ["", "/versions/4"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_the_present_version_answers_under_its_number_too(prefix: str, slash: str) -> None:
    assert answered("GET", ROOT + prefix + slash).json["name"] == "digits"
    assert answered("GET", f"{ROOT}{prefix}/ready{slash}").json["ready"] is True
    assert answered("POST", f"{ROOT}{prefix}/infer{slash}", [body([[1, 2]])]).status == 200


def test_a_bad_request_is_answered_with_its_field() -> None:
    response = answered("POST", f"{ROOT}/infer", [b'{"inputs": []}'])
    assert response.status == 400
    assert "'inputs'" in response.json["error"]
    assert answered("POST", f"{ROOT}/infer", [b"{"]).status == 400


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_body_may_come_in_pieces(size: int) -> None:
    whole = body([[5.0, 0.0]] * 3)
    parts = [whole[at : at + size] for at in range(0, len(whole), size)] + [b""]
    response = answered("POST", f"{ROOT}/infer", parts)
    assert response.json["outputs"][1]["data"] == [0, 0, 0]


def test_a_declared_length_above_the_limit_is_refused_before_it_is_read() -> None:
    headers = (*AUTHORIZED, (b"content-length", str(MAX_BODY_BYTES + 1).encode()))
    response = answered("POST", f"{ROOT}/infer", [], headers=headers, disconnect_after=0)
    assert response.status == 413
    assert str(MAX_BODY_BYTES) in response.json["error"]


def test_pieces_above_the_limit_are_refused() -> None:
    piece = bytes(1 << 20)
    response = answered("POST", f"{ROOT}/infer", [piece] * ((MAX_BODY_BYTES >> 20) + 2))
    assert response.status == 413


def test_a_single_piece_above_the_limit_without_a_declared_length_is_refused() -> None:
    assert answered("POST", f"{ROOT}/infer", [bytes(MAX_BODY_BYTES + 1)]).status == 413


@pytest.mark.parametrize("after", [0, 1])
def test_a_client_that_went_away_gets_no_response(after: int) -> None:
    assert ask("POST", f"{ROOT}/infer", [b"{", b"}", b""], disconnect_after=after) is None


def test_a_model_that_breaks_is_a_500_without_its_reasons() -> None:
    def broken(_: Any) -> Answers:
        raise ZeroDivisionError("secret detail")

    response = answered("POST", f"{ROOT}/infer", [body([[1, 2]])], app=service(broken))
    assert response.status == 500
    assert "secret detail" not in response.json["error"]
    assert "log" in response.json["error"]


def test_concurrent_requests_each_get_their_own_answer() -> None:
    app = service()
    sent: dict[int, bytes] = {}

    async def one(number: int) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body([[float(number), -9.0]], id=str(number)), "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                sent[number] = message["body"]

        path = f"{ROOT}/infer"
        await app(
            {"type": "http", "method": "POST", "path": path, "root_path": ROOT, "headers": AUTHORIZED}, receive, send
        )

    async def run() -> None:
        await asyncio.gather(*(one(number) for number in range(40)))

    asyncio.run(run())
    assert [json.loads(sent[number])["id"] for number in range(40)] == [str(number) for number in range(40)]
    for number in range(40):
        expected = MODEL_UNDER_TEST.predict(np.array([[number, -9.0]], dtype=np.float32)).probabilities[0]
        found = json.loads(sent[number])["outputs"][0]["data"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_lifespan_of_a_server_is_acknowledged() -> None:
    waiting = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(service()({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_language_model_answers_token_ids_with_logits_and_refuses_what_it_does_not_know() -> None:
    model = language_model()
    batcher = Batcher(model.predict, max_rows=4, max_wait_s=0, inline=True)
    app = InferenceService("digits", VERSION, model.card, batcher, KeyGate(KeyChecker([KEY])), check=model.check)

    def sent(ids: list[list[int]], **changes: Any) -> bytes:
        shape = [len(ids), len(ids[0])]
        tensor = {"name": "tokens", "datatype": "INT64", "shape": shape, "data": ids, **changes}
        return json.dumps({"inputs": [tensor]}).encode()

    for ids in ([[1, 2, 3]], [[4, 5], [6, 7]]):
        (output,) = answered("POST", f"{ROOT}/infer", [sent(ids)], app=app).json["outputs"]
        expected = model.predict(np.array(ids)).logits
        assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", list(expected.shape))
        np.testing.assert_allclose(np.reshape(output["data"], expected.shape), expected, rtol=1e-6)
    for wrong, says in (
        (sent([[20]]), "Token id 20 is unknown"),
        (sent([[0] * 17]), "17 tokens; the model takes 1 to 16"),
        (sent([[0]], datatype="FP32"), "must be 'INT64'"),
        (sent([[0.5]]), "INT64 values only"),
    ):
        response = answered("POST", f"{ROOT}/infer", [wrong], app=app)
        assert response.status == 400 and says in response.json["error"]
    signature = answered("GET", ROOT, app=app).json
    assert signature["inputs"] == [{"name": "tokens", "datatype": "INT64", "shape": [-1, -1]}]
