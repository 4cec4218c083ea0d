"""Our endpoints, with keys, limits, metrics and log on, against servers of others, on the same networks and inputs.

All sides are up at once, and those that are not asked are stopped; each serves by one process of one thread. Ours
answers probabilities and a label besides the logits' work; peers answer what comes natural to them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import note
from benchmarks.serving_cells import Case, rounds, table, tell
from benchmarks.serving_ours import MODELS, endpoint, serving_platform
from benchmarks.serving_peers import CONTROL, PEERS, peers

ROUNDS = 3
NEAREST = (CONTROL, "mosec", "kserve", "ray_serve")
CASES: dict[str, tuple[Case, ...]] = {
    "serve_mlp": (
        Case(name="serve_mlp", workload="mlp", clients=64, rps_goal=0.5, cpu_goal=3.0),
        Case(name="serve_mlp_8", workload="mlp", clients=8, against=NEAREST),
        Case(name="serve_mlp_1", workload="mlp", clients=1, against=NEAREST),
    ),
    "serve_mlp_batch": (Case(name="serve_mlp_batch", workload="mlp_batch", clients=64, rps_goal=1.0),),
    "serve_encoder": (Case(name="serve_encoder", workload="encoder", clients=8, rps_goal=0.97),),
    "serve_1mb": (
        Case(name="serve_1mb_binary", workload="means_raw", clients=8, rps_goal=0.5),
        Case(name="serve_1mb_json", workload="means", clients=1, cpu_goal=1.3),
    ),
    "serve_echo": (Case(name="serve_echo", workload="echo", clients=64, rps_goal=0.4, against=NEAREST),),
}


def run(names: Sequence[str], count: int = ROUNDS, against: tuple[str, ...] = PEERS) -> None:
    """Measure groups of cases in one session, and print their figures and a table."""
    cases = [case for name in names for case in CASES[name]]
    needed = list(dict.fromkeys(MODELS[case.workload] for case in cases))
    results = []
    with serving_platform(*needed) as platform, tempfile.TemporaryDirectory() as folder:
        note("  starting the peers ...")
        with peers(against, platform, Path(folder)) as servers:
            for case in cases:
                ours = endpoint(platform, MODELS[case.workload])
                found = rounds(case, [ours, *servers], Path(folder), count)
                tell(case, found, CONTROL)
                results.append((case, found))
    note(table(results))


def whole() -> None:
    """Measure all groups."""
    run(list(CASES))


def mlp() -> None:
    """Measure `serve_mlp`."""
    run(["serve_mlp"])


def mlp_batch() -> None:
    """Measure `serve_mlp_batch`."""
    run(["serve_mlp_batch"])


def encoder() -> None:
    """Measure `serve_encoder`."""
    run(["serve_encoder"])


def one_megabyte() -> None:
    """Measure `serve_1mb`."""
    run(["serve_1mb"])


def echo() -> None:
    """Measure `serve_echo`."""
    run(["serve_echo"])
