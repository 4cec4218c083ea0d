"""Memory as `lightmill plan` foresees it against what training takes, on configurations that were held out.

Each is trained for some steps in processes of their own (see `plan_measured`), by the strategies that train runs. The
judged figure is the rise of resident memory, which kernels' scratch space is part of; the tensors' alone is beside it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

from benchmarks.figures import figure, note
from benchmarks.plan_cases import HELD_OUT, SHARDED, objective_of, rows_of
from benchmarks.plan_measured import STEPS
from lightmill.models.architectures import build_module
from lightmill.records.specs import TrainSpec
from lightmill.training.planning.layouts import layers_of, layout_of
from lightmill.training.planning.memory import follow_step
from lightmill.training.planning.shares import worker_memory
from lightmill.training.strategies import STRATEGIES

WITHIN = 0.15


def main() -> None:
    """Print a figure of each configuration, and one of the largest difference."""
    cases = dict(HELD_OUT)
    if "fsdp" in STRATEGIES:
        cases["decoder, sharded over two workers"] = SHARDED
    worst = 0.0
    for name, case in cases.items():
        planned, resident = predicted(case), measured(case, "resident")
        tensors = measured(case, "tensors")
        worst = max(worst, abs(planned / resident - 1))
        note(f"  {name}: planned {planned / 1e6:.1f} MB, resident {resident / 1e6:.1f}, tensors {tensors / 1e6:.1f}")
        figure(
            f"plan_accuracy: {name}",
            "MB",
            [planned / 1e6],
            [resident / 1e6],
            goal=f"within {WITHIN:.0%}",
            holds=lambda ratio: abs(ratio - 1) <= WITHIN,
            tensors_mb=round(tensors / 1e6, 1),
        )
    figure("plan_accuracy", "largest difference", [worst], goal=f"<= {WITHIN}", holds=lambda found: found <= WITHIN)


def predicted(case: dict[str, Any]) -> int:
    """Return the planned bytes of a worker, as `lightmill plan` makes them."""
    spec = TrainSpec.model_validate(case["spec"])
    objective = objective_of(spec, case["dataset"])
    layout = layout_of(spec.strategy, case["world"])
    rows = spec.batch_size // layout.data
    sample = rows_of(objective, case["dataset"], 1)
    trace = follow_step(spec, objective, lambda: build_module(objective.architecture), sample, rows)
    layers = layers_of(build_module(objective.architecture))
    return worker_memory(trace, layers, spec.strategy, layout, kept_steps=STEPS).total_bytes


def measured(case: dict[str, Any], measure: str) -> int:
    """Return the bytes that training took, of the worker that took most."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "MALLOC_ARENA_MAX": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    started = []
    for rank in range(case["world"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.plan_measured"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps({**case, "rank": rank, "port": port, "measure": measure}))
        process.stdin.close()
        started.append(process)
    found = []
    for process in started:
        assert process.stdout is not None
        lines = process.stdout.read().strip().splitlines()
        if process.wait():
            raise RuntimeError(f"a measured process ended with {process.returncode}; its log is above")
        found.append(json.loads(lines[-1])["bytes"])
    return max(found)
