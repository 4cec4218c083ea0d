"""Every door leads to the same rooms: SDK, command line, HTTP, Ray jobs, plain Python, notebook, README."""

from __future__ import annotations

import json
import re
import time

import httpx
import nbclient
import nbformat
import pytest

from lightmill.sdk import Client
from tests.platforms import BIN, ROOT, TestPlatform

pytestmark = pytest.mark.e2e

MACHINE = {"steps_per_second", "rows_per_second", "data_wait_share", "communication_wait_share", "memory_bytes"}
"""The metrics that tell of the machine, not of the model."""


def test_lists_and_tables(platform: TestPlatform) -> None:
    for noun in ("jobs", "datasets", "models", "endpoints"):
        assert "digits" in platform.lightmill(noun, "list").out
        assert platform.lightmill(noun, "list", "--json").json()
    shown = platform.lightmill("models", "show", "digits").out
    assert "digits@1" in shown and "champion -> 1" in shown and "train-digits-" in shown
    lineage = platform.lightmill("models", "show", "digits@champion", "--json").json()
    assert lineage["version"]["provenance"]["dataset"]["digest"] == lineage["dataset"]["id"]["digest"]
    assert lineage["version"]["provenance"]["packages"]["ray"] == "2.60.0"
    assert lineage["endpoints"] == ["digits"]
    assert "1785 of 1822 kept" in platform.lightmill("datasets", "show", "digits").out
    assert json.loads(platform.lightmill("datasets", "rows", "digits", "--limit", "1").out)["label"] in range(10)
    assert platform.lightmill("status", "--json").json()["models"] >= 1
    lineage = platform.lightmill("lineage", "digits@champion").out
    assert "digits@1" in lineage and "train-digits-" in lineage
    found = platform.lightmill("models", "search", "metrics.test_accuracy>=0.96", "--json").out
    assert "digits" in found
    assert "digits" not in platform.lightmill("models", "search", "metrics.test_accuracy>=0.999", "--json").out


def test_predict_command(platform: TestPlatform, client: Client) -> None:
    rows = client.datasets.rows("digits@1", "test", limit=20)
    pixels = [[rows[f"p{n:02d}"][i] for n in range(64)] for i in range(20)]
    found = [entry["label"] for entry in platform.lightmill("predict", "digits", json.dumps(pixels), "--json").json()]
    assert found == [prediction.label for prediction in client.endpoints.predict("digits", pixels)]
    assert sum(label == right for label, right in zip(found, rows["label"], strict=True)) >= 17


def test_second_up_changes_nothing(platform: TestPlatform) -> None:
    before = sorted(process.pid for process in platform.processes())
    assert platform.lightmill("up", "--json").json()["changed"] is False
    after = {process.pid for process in platform.processes()}
    assert {pid for pid in before if pid not in after} == set()


def test_open_inference_protocol(platform: TestPlatform) -> None:
    with httpx.Client(base_url=platform.url, headers={"X-API-Key": platform.key}) as http:
        assert http.get("/v2/health/live").json() == {"live": True}
        assert http.get("/v2/health/ready").json()["ready"] is True
        assert http.get("/v2").json()["name"] == "lightmill"
        assert http.get("/v2/models/digits/ready").json()["ready"] is True
        metadata = http.get("/v2/models/digits").json()
        assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}]
        body = {"id": "a7", "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0] * 64}]}
        answer = http.post("/v2/models/digits/infer", json=body).json()
        assert answer["id"] == "a7" and answer["model_version"] == "1"
        assert sum(answer["outputs"][0]["data"]) == pytest.approx(1.0, abs=1e-5)
        versioned = http.post("/v2/models/digits/versions/1/infer", json=body)
        assert versioned.json()["outputs"] == answer["outputs"]
        predicted = http.post("/v1/models/digits:predict", json={"instances": [[0] * 64]}).json()["predictions"]
        assert predicted[0]["probabilities"] == pytest.approx(answer["outputs"][0]["data"])
        refused = http.post("/v1/models/digits:predict", json={"instances": [[0] * 63]})
        assert refused.status_code == 400 and "63" in refused.json()["error"]
        index = http.post("/v2/repository/index").json()
        assert [(one["name"], one["state"]) for one in index] == [("digits", "READY")]
    stranger = httpx.post(f"{platform.url}/v1/models/digits:predict", json={"instances": [[0] * 64]})
    assert stranger.status_code == 401


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": [1, 63], "data": [0] * 63}, ["shape", "[batch, 64]", "[1, 63]"]),
        ({"data": [0] * 63}, ["data", "63", "64"]),
        ({"name": "pixel"}, ["pixels", "pixel"]),
        ({"datatype": "INT64"}, ["datatype", "FP32", "INT64"]),
        ({"data": ["a"] * 64}, ["data", "FP32", "'a'"]),
        ({"data": [[0] * 32, [0] * 31]}, ["data", "ragged"]),
    ],
)
def test_wrong_input_is_a_400_that_names_the_field(
    platform: TestPlatform, change: dict[str, object], words: list[str]
) -> None:
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0] * 64} | change
    answer = httpx.post(
        f"{platform.url}/v2/models/digits/infer", json={"inputs": [tensor]}, headers={"X-API-Key": platform.key}
    )
    assert answer.status_code == 400
    assert [word for word in words if word not in answer.json()["error"]] == []


def test_unknown_things_are_404_with_a_remedy(platform: TestPlatform) -> None:
    headers = {"X-API-Key": platform.key}
    answer = httpx.post(f"{platform.url}/v2/models/nothing/infer", json={}, headers=headers)
    assert answer.status_code == 404 and "nothing" in answer.json()["error"]
    assert httpx.get(f"{platform.url}/api/v1/models/nothing", headers=headers).status_code == 404
    missing = platform.lightmill("models", "show", "digits@nobody", check=False)
    assert missing.code == 3 and "nobody" in missing.err and "champion" in missing.err
    assert "Traceback" not in missing.err


def test_wrong_key_is_exit_code_5(platform: TestPlatform) -> None:
    refused = platform.lightmill("models", "list", check=False, LIGHTMILL_API_KEY="lm_00000000_wrong")
    assert refused.code == 5 and "Traceback" not in refused.err


def test_readme(platform: TestPlatform) -> None:
    """Every command and every block of code in the README runs, but for set-up and the two that run this test."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```(sh|python)\n(.*?)```", text, flags=re.S)
    assert [kind for kind, _ in blocks] == ["sh", "sh", "python", "sh"]
    assert blocks[0][1].split("\n")[:2] == ["make demo", "make test"]
    for kind, block in blocks[1:]:
        if kind == "python":
            platform.run(BIN / "python", "-c", block)
            continue
        script = block.replace("~/.lightmill", str(platform.home)).replace("http://127.0.0.1:8265", platform.dashboard)
        platform.run("bash", "-euc", script)


def test_ray_job_submit_registered_a_version_with_its_lineage(platform: TestPlatform) -> None:
    """The README's last block submitted the training as a Ray job; its version is the newest."""
    newest = platform.lightmill("models", "show", "digits", "--json").json()["latest"]["version"]
    assert newest["id"]["seq"] == 3
    assert newest["metrics"]["test_accuracy"] >= 0.96
    assert newest["provenance"]["dataset"]["name"] == "digits"
    jobs = {job["id"]: job for job in platform.lightmill("jobs", "list", "--json").json()}
    job = jobs[newest["provenance"]["job"]]
    assert job["state"] == "succeeded" and job["submission_id"].startswith("raysubmit_")


def test_same_seed_same_weights(client: Client) -> None:
    """Equal data, specification and code give equal metrics, through whichever door the run came."""
    versions = [client.models.version(f"digits@{n}").version.metrics for n in (1, 2, 3)]
    found = [{name: value for name, value in metrics.items() if name not in MACHINE} for metrics in versions]
    assert found[0] == found[1] == found[2]
    assert {"loss", "validation_loss", "test_accuracy"} <= found[0].keys()


def test_alias_moves_the_endpoint(platform: TestPlatform, client: Client) -> None:
    before = client.endpoints.wait("digits").version
    target = 1
    assert before is not None and before.seq != target
    platform.lightmill("models", "alias", "digits", "champion", str(target))
    body = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0] * 64}]}
    seen = []
    with httpx.Client(headers={"X-API-Key": platform.key}) as http:
        while not seen or seen[-1] != str(target):
            answer = http.post(f"{platform.url}/v2/models/digits/infer", json=body)
            assert answer.status_code == 200, answer.text
            seen.append(answer.json()["model_version"])
            time.sleep(0.01)  # a client of its own pace, so that the new replica gets a core to start on
            assert len(seen) < 20_000
    assert seen[0] == str(before.seq)
    stale = platform.lightmill("models", "alias", "digits", "champion", "1", "--expect", "7", check=False)
    assert stale.code == 4


def test_notebook(platform: TestPlatform) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute(
        env=platform.environment
    )
    images = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(images) >= 2
    shown = [
        output["data"]["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output and "text/html" in output["data"]
    ]
    assert any("Profile of digits" in page and page.startswith("<iframe sandbox") for page in shown)
