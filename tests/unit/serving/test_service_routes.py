"""What an endpoint answers beside plain inference: statistics, OpenAPI, its page, classes, limits, and who is told."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.access import KeyChecker
from lightmill.errors import ForbiddenError, LightmillError, RequestError, TooSlowError, UnavailableError
from lightmill.models.inputs import input_specs
from lightmill.records.fitted import FittedPreparation, InputColumn, TabularPreparation
from lightmill.records.preparation import Features
from lightmill.serving.asgi import BodyReader, KeyGate
from lightmill.serving.batcher import Batcher
from lightmill.serving.front import PHASES, Phases
from lightmill.serving.protocols import encodings
from lightmill.serving.protocols.negotiation import Head
from lightmill.serving.service import GONE, ROUTES, InferenceService
from lightmill.serving.signals.predictions import Predicted
from lightmill.serving.statistics import Outcome, Statistics
from tests.unit.serving.protocols.world import (
    AUTHORIZED,
    KEY,
    ROOT,
    VERSION,
    Echo,
    ask,
    card,
    service,
    signature,
    tabular_signature,
)

TENSOR = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [1, 5, 3, 9, 7, 8]}
COLUMNS = TabularPreparation(
    columns=(InputColumn(name="age", dtype="float64"), InputColumn(name="word", dtype="string")),
    fitted=FittedPreparation(steps=(Features(columns=("age",), name="features"),)),
    width=1,
)


def infer(app: InferenceService, **fields: Any) -> Any:
    return ask(app, json.dumps({"inputs": [TENSOR], **fields}).encode())


def get(app: InferenceService, route: str, **options: Any) -> Any:
    return ask(app, path=ROOT + route, method="GET", **options)


def test_classes_are_given_best_first_with_value_index_and_name() -> None:
    app = service(classes=("a", "b", "c"))
    wanted = [{"name": "same", "parameters": {"classification": 2}}]
    (output,) = json.loads(infer(app, outputs=wanted).body)["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == ["5.000000:1:b", "3.000000:2:c", "9.000000:0:a", "8.000000:2:c"]
    nameless = json.loads(infer(service(), outputs=wanted).body)["outputs"][0]["data"]
    assert nameless[0] == "5.000000:1"
    wanted[0]["parameters"] = {"classification": 99}
    assert json.loads(infer(app, outputs=wanted).body)["outputs"][0]["shape"] == [2, 3]


def test_statistics_have_triton_s_shape() -> None:
    clock = iter(range(100, 200))
    statistics = Statistics(now=lambda: next(clock))
    app = service(statistics=statistics, observers=(statistics.batch,))
    for _ in range(3):
        assert infer(app).status == 200
    assert ask(app, b"{").status == 400
    (found,) = json.loads(get(app, "/stats").body)["model_stats"]
    assert (found["name"], found["version"], found["inference_count"]) == ("echo", "4", 6)
    assert (found["execution_count"], found["last_inference"]) == (3, 102_000)
    stats = found["inference_stats"]
    assert (stats["success"]["count"], stats["fail"]["count"], stats["compute_infer"]["count"]) == (3, 1, 3)
    parts = sum(stats[name]["ns"] for name in ("compute_input", "compute_infer", "compute_output"))
    assert 0 < parts + stats["queue"]["ns"] <= stats["success"]["ns"]
    (batch,) = found["batch_stats"]
    assert (batch["batch_size"], batch["compute_infer"]["count"]) == (2, 3)
    assert 0 < batch["compute_infer"]["ns"] <= stats["compute_infer"]["ns"]


def test_the_wait_is_told_apart_from_the_computation() -> None:
    statistics = Statistics()
    statistics.observe(Outcome(started=1.0, parsed=1.5, waited_s=0.25, predicted=2.5, written=2.75, ended=3.0, rows=4))
    (found,) = json.loads(statistics.report(service().description))["model_stats"]
    stats = {name: each["ns"] / 1e9 for name, each in found["inference_stats"].items() if each["ns"]}
    assert stats == {"success": 2.0, "queue": 0.25, "compute_input": 0.5, "compute_infer": 0.75, "compute_output": 0.25}
    assert found["execution_count"] == 0


@pytest.mark.parametrize("tabular", [False, True])
def test_the_openapi_document_describes_requests_that_work(tabular: bool) -> None:
    app = service(tabular_signature(input_specs(COLUMNS), 1), preparation=COLUMNS) if tabular else service()
    document = json.loads(get(app, "/openapi.json").body)
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {ROOT + route for route in ROUTES if route != "/docs"}
    content = document["paths"][f"{ROOT}/infer"]["post"]["requestBody"]["content"]
    assert {"application/octet-stream", "application/vnd.apache.arrow.stream", "application/x-npz"} <= set(content)
    assert ("application/x-npy" in content) is not tabular
    json_form = content["application/json"]
    examples = [each["value"] for each in json_form["examples"].values()] if tabular else [json_form["example"]]
    schema = {**json_form["schema"], "components": document["components"]}
    for example in examples:
        jsonschema.Draft202012Validator(schema).validate(example)
        answer = ask(app, json.dumps(example).encode())
        assert answer.status == 200, answer.body
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({"inputs": [{"name": "y"}]})
    answered = {"$ref": "#/components/schemas/InferResponse", "components": document["components"]}
    jsonschema.Draft202012Validator(answered).validate(json.loads(ask(app, json.dumps(examples[0]).encode()).body))


def test_every_status_that_is_sent_is_in_the_document() -> None:
    document = json.loads(get(service(), "/openapi.json").body)
    responses = set(document["paths"][f"{ROOT}/infer"]["post"]["responses"])
    assert {"200", "400", "401", "406", "408", "413", "415", "503"} <= responses


def test_the_page_is_open_and_all_else_is_not() -> None:
    page = get(service(), "/docs", key=())
    assert page.status == 200 and b"<script>" in page.body and b"http://" not in page.body
    for route in ("/openapi.json", "/stats", "", "/ready"):
        assert get(service(), route, key=()).status == 401


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        (b"gzip", b"gzip"),
        (b"deflate, gzip;q=0.5", b"deflate"),
        (b"gzip;q=0, deflate;q=0.1", b"deflate"),
        (b"br", None),
        (b"gzip;q=0", None),
        (b"gzip;q=x", None),
        (b"", None),
    ],
)
def test_the_encoding_that_a_caller_likes_best_is_chosen(accepted: bytes, encoding: bytes | None) -> None:
    chosen = encodings.choice(accepted)
    assert (chosen.encoding if chosen else None) == encoding


# -- seams -------------------------------------------------------------------------------------------


class Counting:
    """A gate that counts who is inside, and refuses on demand."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.problem: LightmillError | None = None

    def admit(self, scope: Any) -> Any:
        if self.problem:
            raise self.problem
        self.inside += 1
        self.most = max(self.most, self.inside)
        return "caller"

    def release(self, caller: Any) -> None:
        assert caller == "caller"
        self.inside -= 1


class Told:
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def observe(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def test_a_gate_lets_in_and_is_told_when_a_request_is_over() -> None:
    gate, told = Counting(), Told()
    app = service(statistics=told)
    app.gate = gate
    assert infer(app).status == 200
    assert ask(app, b"{").status == 400
    assert get(app, "/ready").status == 200
    assert (gate.inside, gate.most) == (0, 1)
    assert [(outcome.status, outcome.rows) for outcome in told.outcomes] == [(200, 2), (400, 0)]
    good = told.outcomes[0]
    assert good.started < good.parsed <= good.predicted <= good.written <= good.ended
    gate.problem = ForbiddenError("Not this one.")
    answer = infer(app)
    assert answer.status == 403 and b"Not this one." in answer.body and len(told.outcomes) == 2
    gate.problem = UnavailableError("Later.")
    assert infer(app).headers[b"retry-after"] == b"1"


def test_a_client_that_went_away_is_counted_as_such() -> None:
    told, gate = Told(), Counting()
    app = service(statistics=told)
    app.gate = gate

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError("nothing is sent")

    scope = {"type": "http", "method": "POST", "path": f"{ROOT}/infer", "root_path": ROOT, "headers": []}
    asyncio.run(app(scope, receive, send))
    assert [outcome.status for outcome in told.outcomes] == [GONE] and gate.inside == 0


def test_a_request_may_say_how_long_it_waits() -> None:
    never = Batcher(lambda features: Echo(same=features), max_rows=64, max_wait_s=3600, inline=True)
    app = InferenceService("echo", VERSION, card(signature()), never, KeyGate(KeyChecker([KEY])))
    answer = infer(app, parameters={"timeout": 1})
    assert answer.status == 504


# -- bodies ------------------------------------------------------------------------------------------

HEAD = Head.of(())


def source(*parts: bytes, hangs: bool = False) -> Any:
    waiting = list(parts)

    async def receive() -> dict[str, Any]:
        if not waiting and hangs:
            await asyncio.Event().wait()
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting) or hangs}

    return receive


@pytest.mark.parametrize("parts", [(), (b"x",)])
def test_a_body_that_does_not_come_is_given_up(parts: tuple[bytes, ...]) -> None:
    async def run() -> None:
        reader = BodyReader(timeout_s=0.01)
        with pytest.raises(TooSlowError, match=r"within 0.01 s"):
            await reader.read(HEAD, source(*parts, hangs=True))
        assert await reader.read(HEAD, source(b"ab", b"c")) == b"abc"

    asyncio.run(run())


def test_a_reader_that_is_cancelled_by_somebody_else_stays_cancelled() -> None:
    async def run() -> None:
        task = asyncio.create_task(BodyReader(timeout_s=3600).read(HEAD, source(hangs=True)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_large_bodies_are_held_up_to_a_total_and_given_back() -> None:
    async def run() -> None:
        reader = BodyReader(limit=300_000, total=500_000)
        first = await reader.read(HEAD, source(bytes(150_000), bytes(150_000)))
        with pytest.raises(UnavailableError, match="large bodies"):
            await reader.read(HEAD, source(bytes(100_000), bytes(200_000)))
        with pytest.raises(UnavailableError, match="large bodies"):
            await reader.read(HEAD, source(bytes(300_000)))
        assert await reader.read(HEAD, source(b"small")) == b"small"
        reader.release(first)
        for _ in range(5):
            again = await reader.read(HEAD, source(bytes(299_000)))
            reader.release(again)
        with pytest.raises(ConnectionError):
            await reader.read(HEAD, disconnecting(bytes(200_000)))
        both = [await reader.read(HEAD, source(bytes(250_000))) for _ in range(2)]
        assert sum(map(len, both)) == 500_000

    asyncio.run(run())


@settings(deadline=None)
@given(st.integers(0, 300_000), st.lists(st.integers(0, 300_000), max_size=6), st.integers(-2, 2), st.booleans())
def test_a_body_is_the_same_however_it_comes_and_nothing_is_held_afterwards(
    size: int, cuts: list[int], off: int, gone: bool
) -> None:
    whole = bytes(range(256)) * (size // 256 + 1)
    body = whole[:size]
    edges = [0, *sorted(min(cut, size) for cut in cuts), size]
    parts = [body[start:stop] for start, stop in pairwise(edges)]
    head = Head.of(((b"content-length", str(max(0, size + off)).encode()),))

    async def run() -> None:
        reader = BodyReader(limit=400_000, total=800_000)
        for _ in range(3):  # nothing is held afterwards, or the third would be refused
            if gone:
                with pytest.raises(ConnectionError):
                    await reader.read(head, disconnecting(body))
            elif max(0, size + off) != size:
                with pytest.raises(RequestError, match="Content-Length"):
                    await reader.read(head, source(*parts))
            else:
                found = await reader.read(head, source(*parts))
                assert found == body
                reader.release(found)
        assert reader._held == 0

    asyncio.run(run())


def disconnecting(first: bytes) -> Any:
    messages = [{"type": "http.request", "body": first, "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    return receive


def test_a_view_of_a_large_body_is_what_the_model_gets() -> None:
    seen: list[np.ndarray] = []

    def compute(features: np.ndarray) -> Echo:
        seen.append(features)
        return Echo(same=features)

    batcher = Batcher(compute, max_rows=1 << 20, max_wait_s=0, inline=True)
    app = InferenceService("echo", VERSION, card(signature()), batcher, KeyGate(KeyChecker([KEY])))
    rows = np.random.default_rng(1).random((100_000, 3), dtype=np.float32)
    entry = {"name": "x", "datatype": "FP32", "shape": [100_000, 3], "parameters": {"binary_data_size": rows.nbytes}}
    text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    text += b" " * (-len(text) % 64)
    headers = [(b"inference-header-content-length", str(len(text)).encode())]
    answer = ask(app, text + rows.tobytes(), headers=headers, piece=1 << 16)
    assert answer.status == 200 and rows.tobytes() in answer.body
    assert not seen[0].flags.owndata and seen[0].flags.writeable


# -- what is told ------------------------------------------------------------------------------------


class Sampled:
    """A prediction log that wants every second request."""

    def __init__(self) -> None:
        self.asked = 0
        self.offered: list[Predicted] = []

    def wants(self) -> bool:
        self.asked += 1
        return self.asked % 2 == 1

    def offer(self, predicted: Predicted) -> None:
        self.offered.append(predicted)


def test_the_front_hears_of_phases_and_the_log_of_rows_and_answers() -> None:
    app, log = service(), Sampled()
    app.predictions = log  # pyright: ignore[reportAttributeAccessIssue]
    told = [Phases(), Phases(), Phases()]
    told[0].request_id = "r-1"
    sent = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}]})

    async def send(message: Any) -> None:
        pass

    for phases, body in zip(told, (sent, sent, "{"), strict=True):

        async def receive(body: str = body) -> Any:
            return {"type": "http.request", "body": body.encode()}

        scope = {"type": "http", "method": "POST", "path": f"{ROOT}/infer", "root_path": ROOT, PHASES: phases}
        asyncio.run(app(scope | {"headers": list(AUTHORIZED)}, receive, send))
    assert [(phases.protocol, phases.rows, phases.error) for phases in told] == [
        ("oip", 2, None),
        ("oip", 2, None),
        ("oip", 0, "RequestError"),
    ]
    assert told[0].compute_s > 0 and told[2].compute_s == 0
    (kept,) = log.offered
    assert (kept.request_id, kept.rows, kept.size_bytes) == ("r-1", 2, len(sent))
    np.testing.assert_array_equal(kept.inputs["x"], kept.outputs["same"])
