"""A real `ray up` of the project's cluster.yaml, over ssh, and the digits trained on it; tests run in file order."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from tests.cluster.conftest import Cluster

pytestmark = pytest.mark.cluster
JOB_S = 420.0


def json_in(output: str) -> Any:
    """Return the last line that is a JSON object, as a Lightmill command or job prints it."""
    lines = [line.strip() for line in output.splitlines() if line.strip().startswith("{")]
    assert lines, output
    return json.loads(lines[-1])


def submit(cluster: Cluster, job: str, spec: str) -> dict[str, Any]:
    output = cluster.operate(
        "ray", "job", "submit", "--address", f"http://{cluster.head}:8265", "--working-dir", ".",
        "--", "python", f"jobs/{job}.py", f"examples/digits/{spec}.yaml", timeout_s=JOB_S,
    )  # fmt: skip
    assert "succeeded" in output, output
    return json_in(output)


def test_ray_status_shows_the_node(cluster: Cluster) -> None:
    status = cluster.exec("ray status")
    active = status.partition("Active:")[2].partition("Pending:")[0]
    assert len(re.findall(r"local\.cluster\.node", active)) == 1, status
    assert "/8.0 CPU" in status


def test_the_platform_answers_on_the_heads_address(cluster: Cluster) -> None:
    assert json_in(cluster.operate("curl", "-sS", f"http://{cluster.head}:8000/v2/health/live")) == {"live": True}
    assert json_in(cluster.on_head("lightmill status --json"))["nodes"] == 1


def test_ray_refuses_strangers(cluster: Cluster) -> None:
    url = f"http://{cluster.head}:8265/api/jobs/"
    assert cluster.operate("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url) == "401"
    assert cluster.on_head("stat -c %a ~/.lightmill/keys ~/.lightmill/keys/ray.token ~/.ray/auth_token").split() == [
        "700",
        "600",
        "600",
    ]


def test_jobs_ingest_and_train_the_digits(cluster: Cluster) -> None:
    ingested = submit(cluster, "ingest", "dataset")
    began = time.monotonic()
    trained = submit(cluster, "train", "train")
    print(f"\n  trained in {time.monotonic() - began:.1f} s: {trained['model_version']} {trained['metrics']}")
    assert trained["metrics"]["validation_accuracy"] > 0.96

    shown = json_in(cluster.on_head("lightmill models show digits --json"))
    version = shown["latest"]["version"]
    assert len(shown["versions"]) == 1
    assert (version["id"]["seq"], version["id"]["digest"]) == (1, trained["digest"])
    assert version["provenance"]["job"] == trained["job"]
    assert version["provenance"]["dataset"]["digest"] == ingested["digest"]


def test_a_second_ray_up_disturbs_nothing(cluster: Cluster) -> None:
    before = cluster.on_head("pgrep '^(gcs_server|raylet|haproxy)$'")
    cluster.up()
    assert cluster.on_head("pgrep '^(gcs_server|raylet|haproxy)$'") == before


def test_ray_down_ends_every_process(cluster: Cluster) -> None:
    cluster.down()
    assert cluster.on_head("sleep 2; pgrep -a '^(gcs_server|raylet|haproxy|ray::.*|lightmill)' || true") == ""
