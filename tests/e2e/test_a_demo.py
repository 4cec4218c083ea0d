"""The demo, as its user sees it. The files of this folder run in the order of their names, on one platform."""

from __future__ import annotations

import json
import subprocess

import httpx
import numpy as np
import pytest

from lightmill.sdk import Client
from tests.e2e.conftest import Demo, listening
from tests.platforms import ROOT, TestPlatform

pytestmark = pytest.mark.e2e
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


def test_last_line_is_json_with_the_accuracy(demo: Demo) -> None:
    found = demo.command.json()
    print(f"\naccuracy through the endpoint: {found['accuracy']:.4f}")
    assert found["accuracy"] >= 0.96
    assert found["endpoint"] == "digits"
    assert found["url"] == f"{demo.platform.url}/v2/models/digits"
    assert found["model_version"] == "digits@1"
    assert found["seconds"] > 0


def test_printed_curl_answers(demo: Demo) -> None:
    line = next(line for line in demo.command.out.splitlines() if line.startswith("curl "))
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, timeout=30)
    answer = json.loads(done.stdout)
    assert answer["model_name"] == "digits"
    assert answer["outputs"][1]["shape"] == [1]


def test_it_says_how_to_stop_and_where_the_api_is(demo: Demo) -> None:
    assert "lightmill down" in demo.command.out
    assert f"{demo.platform.url}/docs" in demo.command.out


def test_make_demo_runs_this_command() -> None:
    done = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "lightmill demo examples/digits" in done.stdout


def test_every_new_port_is_on_loopback(demo: Demo) -> None:
    new = listening() - demo.before
    assert new
    outside = [socket for socket in new if socket.split(":")[0] not in LOOPBACK]
    assert not outside, f"listening beyond loopback: {outside}"


def test_strangers_are_refused(platform: TestPlatform) -> None:
    assert httpx.get(f"{platform.dashboard}/api/jobs/").status_code == 401
    assert httpx.get(f"{platform.url}/api/v1/models").status_code == 401
    wrong = {"Authorization": "Bearer lm_00000000_" + "A" * 43}
    assert httpx.get(f"{platform.url}/api/v1/models", headers=wrong).status_code == 401
    answer = httpx.get(f"{platform.url}/v2/models/digits", headers=wrong)
    assert answer.status_code == 401
    assert set(answer.json()) == {"error"}


def test_secrets_lie_in_files_of_their_owner(platform: TestPlatform) -> None:
    for name in ("admin.key", "ray.token", "keyring.json"):
        assert (platform.home / "keys" / name).stat().st_mode & 0o777 == 0o600
    assert (platform.home / "catalog.db").stat().st_mode & 0o777 == 0o600


def test_no_secret_in_ray(platform: TestPlatform) -> None:
    """What Ray shows and logs (jobs, actors, environments) holds no key of ours."""
    ring = json.loads((platform.home / "keys" / "keyring.json").read_text())
    secrets = [value.encode() for value in _strings(ring) if len(value) >= 43] + [platform.key.encode()]
    secrets += [platform.key.split("_")[2].encode()]
    assert len(secrets) >= 4
    token = {"Authorization": f"Bearer {(platform.home / 'keys' / 'ray.token').read_text().strip()}"}
    shown = b""
    for path in (
        "/api/jobs/",
        "/api/v0/actors?detail=true",
        "/api/v0/runtime_envs?detail=true",
        "/api/serve/applications/",
    ):
        answer = httpx.get(platform.dashboard + path, headers=token, timeout=30)
        assert answer.status_code == 200, path
        shown += answer.content
    for file in platform.sessions.rglob("*"):
        if file.is_file() and not file.is_symlink() and file.suffix in (".log", ".out", ".err", ".txt", ".json"):
            shown += file.read_bytes()
    assert b"digits" in shown
    assert not [secret for secret in secrets if secret in shown]


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [found for entry in value.values() for found in _strings(entry)]
    return [value] if isinstance(value, str) else []


def test_store_shows_nothing(platform: TestPlatform, client: Client) -> None:
    """No class name, column name or weight stands in any file below the store; a control shows the search works."""
    card = client.models.version("digits@1").version.card
    rows = client.datasets.rows("digits@1", "train", limit=50)
    needles = [b"digits", b"pixels", b"convnet", b'p00"', b'p63"', b"row_id", b"standardize"]
    needles.append(json.dumps(card["preprocessing"]["steps"][0]["mean"][2]).encode())
    needles.append(np.asarray(rows["features"][0], dtype=np.float32).tobytes())
    needles.append(np.asarray([rows[f"p{n:02d}"][0] for n in range(64)], dtype=np.float32).tobytes())
    files = [path for path in (platform.home / "store").rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        data = path.read_bytes()
        hits = [needle for needle in needles if needle in data]
        assert not hits, f"{path} shows {hits}"
    control = json.dumps(card).encode()
    assert any(needle in control for needle in needles)
