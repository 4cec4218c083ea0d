"""Runs an operation of this node in a process of its own and follows it; see lightmill.wiring.operation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from lightmill.errors import LightmillError, error_named
from lightmill.records.jobs import Progress
from lightmill.settings import Settings


def run_operation(
    settings: Settings, name: str, options: dict[str, object], on_progress: Callable[[Progress], None]
) -> dict[str, Any]:
    """Run an operation and return its result.

    Raises:
        LightmillError: What the operation raised, as the kind of error that it was.
    """
    environment = {**os.environ, "LIGHTMILL_HOME": str(settings.home)}
    with subprocess.Popen(
        [sys.executable, "-m", "lightmill.wiring.operation", name],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - pipes, for the type checker
        process.stdin.write(json.dumps(options))
        process.stdin.close()
        last: dict[str, Any] = {}
        for line in process.stdout:
            last = _parse(line)
            if "progress" in last:
                on_progress(Progress.model_validate(last["progress"]))
    if "result" in last:
        return last["result"]
    if "error" in last:
        raise error_named(str(last.get("type")))(str(last["error"]))
    raise LightmillError(f"Operation {name} ended without a word (exit {process.returncode}); its log is above.")


def _parse(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
