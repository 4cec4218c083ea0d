"""The gateway: the platform's own routes, and models named in the last path segment."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lightmill.serving.gateway import Gateway
from tests.unit.serving.protocols.world import Answer, Joined, ask, service, signature

APP = service(classes=("a", "b", "c"))
GATEWAY = Gateway(Joined(APP), APP.gate)
ROWS = [[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]]


def get(path: str, **options: Any) -> Any:
    answer = ask(GATEWAY, path=path, method="GET", **options)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def post(path: str, body: Any, **options: Any) -> Answer:
    return ask(GATEWAY, body if isinstance(body, bytes) else json.dumps(body).encode(), path=path, **options)


def refused(answer: Answer, status: int, *words: str) -> None:
    assert answer.status == status, answer.body
    error = json.loads(answer.body)["error"]
    assert [word for word in words if word not in error] == [], error


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/index"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/echo"),
        ("POST", "/v1/models/echo:predict"),
        ("POST", "/v2/models/echo/infer"),
        ("POST", "/v2/repository/models/echo/load"),
        ("GET", "/nowhere"),
    ],
)
def test_everything_needs_a_key(method: str, path: str) -> None:
    refused(ask(GATEWAY, path=path, method=method, key=()), 401, "API key")


def test_the_index_lists_endpoints() -> None:
    listed = json.loads(post("/v2/repository/index", b"").body)
    assert listed == [
        {"name": "asleep", "version": "1", "state": "UNAVAILABLE", "reason": "deploying"},
        {"name": "echo", "version": "4", "state": "READY", "reason": ""},
    ]
    assert json.loads(post("/v2/repository/index", {"ready": True}).body) == listed[1:]
    refused(post("/v2/repository/index", {"ready": 1}), 400, "'ready'")
    refused(post("/v2/repository/index", [1]), 400, "object", "a list")


def test_models_are_not_loaded_by_this_protocol() -> None:
    for verb in ("load", "unload"):
        refused(post(f"/v2/repository/models/echo/{verb}", {}), 501, "'echo'", "lightmill deploy")


def test_status_and_metadata_of_v1() -> None:
    assert get("/v1/models") == {"models": ["asleep", "echo"]}
    for path in ("/v1/models/echo", "/v1/models/echo/versions/4"):
        found = get(path)
        assert found["model_version_status"] == [
            {"version": "4", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
        assert (found["name"], found["ready"]) == ("echo", True)
    found = get("/v1/models/echo/metadata")
    assert found["model_spec"] == {"name": "echo", "signature_name": "", "version": "4"}
    signatures = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signatures["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signatures["inputs"]["x"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}, {"size": "3", "name": ""}]
    assert signatures["outputs"]["largest"]["dtype"] == "DT_INT64"


@pytest.mark.parametrize("path", ["/v1/models/echo:predict", "/v1/models/echo/versions/4:predict"])
def test_rows_and_columns_of_v1(path: str) -> None:
    rows = [{"same": row, "largest": int(np.argmax(row))} for row in ROWS]
    for instances in (ROWS, [{"x": row} for row in ROWS]):
        answer = post(path, {"signature_name": "serving_default", "instances": instances})
        assert json.loads(answer.body) == {"predictions": rows}
    for inputs in (ROWS, {"x": ROWS}):
        found = json.loads(post(path, {"inputs": inputs}).body)
        assert found == {"outputs": {"same": ROWS, "largest": [2, 0]}}
    one = json.loads(post(path, {"instances": ROWS}, query=b"output=largest").body)
    assert one == {"predictions": [2, 0]}
    one = json.loads(post(path, {"inputs": ROWS}, query=b"output=largest").body)
    assert one == {"outputs": [2, 0]}


def test_bytes_in_v1_are_base64() -> None:
    app = service(signature("BYTES", (-1,)))
    gateway = Gateway(Joined(app), app.gate)
    for instances in (
        [{"b64": "aGk="}, {"b64": "eW91"}],
        [{"x": {"b64": "aGk="}}, {"x": "you"}],
        ["hi", "you"],
    ):
        answer = ask(
            gateway, json.dumps({"instances": instances}).encode(), path="/v1/models/echo:predict", query=b"output=same"
        )
        assert json.loads(answer.body) in ({"predictions": ["hi", "you"]},), answer.body
    bad = ask(gateway, b'{"instances": [{"b64": "?"}]}', path="/v1/models/echo:predict")
    refused(bad, 400, "inputs['x']", "base64")
    raw = ask(gateway, b'{"instances": [{"b64": "/w=="}]}', path="/v1/models/echo:predict")
    refused(raw, 400, "'same'", "UTF-8")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", ("JSON",)),
        ([], ("object", "a list")),
        ({}, ("instances", "inputs")),
        ({"instances": ROWS, "inputs": ROWS}, ("not both",)),
        ({"instances": ROWS, "signature_name": "other"}, ("'signature_name'", "'other'")),
        ({"instances": {}}, ("'instances'", "an object")),
        ({"instances": []}, ("'instances'", "a list")),
        ({"instances": [{"y": 1}]}, ("'instances'", "row 0", "'y'")),
        ({"instances": [{"x": [1, 2, 3]}, {}]}, ("'instances'", "row 1 lacks 'x'")),
        ({"instances": [{"x": [1, 2, 3]}, 3]}, ("'instances'", "a number")),
        ({"instances": [[1, 2, 3], [1, 2]]}, ("inputs['x'].data", "ragged")),
        ({"instances": [[1, 2, "3"]]}, ("inputs['x'].data", "'3'")),
        ({"instances": [[1, 2]]}, ("inputs['x'].shape", "[batch, 3]", "[1, 2]")),
        ({"instances": [1, 2]}, ("inputs['x'].shape", "[2]")),
        ({"instances": [[1, 2, 1e300]]}, ("inputs['x'].data", "FP32")),
        ({"inputs": {"y": ROWS}}, ("inputs['x']", "'y'")),
        ({"inputs": 3}, ("inputs['x']", "at least one row")),
        ({"instances": ROWS, "parameters": 3}, ("parameters", "a number")),
    ],
)
def test_bodies_of_v1_that_do_not_fit_name_the_field(body: Any, words: tuple[str, ...]) -> None:
    refused(post("/v1/models/echo:predict", body), 400, *words)


def test_what_v1_has_and_we_have_not_is_501() -> None:
    for verb in ("explain", "classify", "regress"):
        refused(post(f"/v1/models/echo:{verb}", {}), 501, f"':{verb}'", "':predict'")
    refused(post("/v1/models/echo:other", {}), 400, "':other'")
    refused(post("/v1/models/echo/labels/stable:predict", {}), 501, "'stable'")


def test_unknown_models_versions_routes_and_methods_are_refused_by_name() -> None:
    refused(post("/v1/models/none:predict", {}), 404, "'none'", "echo")
    refused(post("/v1/models/echo/versions/3:predict", {}), 404, "version 4", "'3'")
    refused(ask(GATEWAY, path="/v2/models/none", method="GET"), 404, "'none'")
    refused(ask(GATEWAY, path="/v3", method="GET"), 404, "/v3", "/v1/models")
    refused(ask(GATEWAY, path="/v1/models/echo:predict", method="GET"), 405, "POST")
    refused(ask(GATEWAY, path="/v1/models", method="POST"), 405, "GET")
    refused(ask(GATEWAY, path="/v2/repository/index", method="GET"), 405, "POST")


def test_v2_of_a_model_is_answered_here_as_well() -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": ROWS}
    for prefix in ("/v2/models/echo", "/v2/models/echo/versions/4"):
        assert get(prefix)["name"] == "echo"
        assert get(f"{prefix}/ready") == {"name": "echo", "ready": True}
        found = json.loads(post(f"{prefix}/infer", {"inputs": [tensor], "id": "r"}).body)
        assert (found["id"], found["outputs"][0]["data"]) == ("r", [1, 2, 3, 6, 5, 4])
    refused(post("/v2/models/echo/infer", {"inputs": []}), 400, "'inputs'")
