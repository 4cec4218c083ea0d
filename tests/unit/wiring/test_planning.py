"""`lightmill plan` on a home of its own, without a platform that runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightmill.settings import Settings
from lightmill.wiring.bootstrap import bootstrap
from lightmill.wiring.platform import open_platform
from tests.unit.datasets.published import publish

SPEC = {
    "model": "buyers",
    "dataset": "people@latest",
    "architecture": {"name": "mlp", "arguments": {"hidden": [8]}},
    "batch_size": 32,
    "workers": 2,
    "strategy": "ddp",
}


@pytest.mark.slow
def test_a_plan_is_printed_as_tables_and_as_json(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    bootstrap(settings)
    platform = open_platform(settings)
    with platform.catalog:
        publish(platform.registry)
    path = tmp_path / "train.yaml"

    def run(*arguments: str, **changes: object) -> tuple[int, str, str]:
        path.write_text(yaml.safe_dump(SPEC | changes))
        environment = {**os.environ, "LIGHTMILL_HOME": str(settings.home), "PYTHONPATH": ":".join(sys.path)}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-c", "from lightmill.cli import main; main()", "plan", str(path), *arguments]
        done = subprocess.run(
            command, env=environment | {"COLUMNS": "200"}, capture_output=True, text=True, timeout=300, check=False
        )
        return done.returncode, done.stdout, done.stderr

    code, out, said = run()
    assert code == 0, said
    for word in ("Plan of buyers on people@1", "activations", "sent a step", "ddp *", "this machine"):
        assert word in out, out
    code, out, said = run("--json", "--no-probe", "--strategy", "ddp")
    plan = json.loads(out)
    assert (code, plan["workers"], [one["strategy"] for one in plan["strategies"]]) == (0, 2, ["ddp"]), said
    assert plan["probe_steps"] == 0 and "this machine is taken for the cluster" in plan["notes"][0]
    code, out, _ = run("--json", batch_size=33)
    assert code == 2 and "batch_size 33 does not divide by workers 2" in json.loads(out)["error"]
