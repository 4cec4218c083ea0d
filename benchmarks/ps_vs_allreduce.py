"""All-reduce, parameter servers, local steps and gossip: two workers on two cores, one of them slowed five times.

Each strategy trains the same perceptron for the same time, once undisturbed and once with worker 0 sleeping four times
its computing in every step. Workers are Ray actors, so that servers are reached as in a run. Printed are rows a second
of both, and the loss on held-out rows when the time is over. Servers share the two cores with the workers.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import ray

from benchmarks.figures import figure, note
from benchmarks.team_speed import Job, Speed, member
from tests.platforms import ROOT

SECONDS = 10.0
BATCH = 512
HIDDEN = [512, 512]
SLOWER = 5.0
MORE = {"learning_rate": 0.3}
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"name": "ddp"},
    "bsp": {"name": "parameter_server"},
    "ssp k=2": {"name": "parameter_server", "consistency": "ssp", "staleness": 2},
    "asp": {"name": "parameter_server", "consistency": "asp"},
    "local_sgd H=8": {"name": "local_sgd", "local_steps": 8},
    "ring": {"name": "ring"},
}


def main() -> None:
    """Measure each strategy with workers that are alike, and with one that is slow."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT)])}},
    )
    try:
        alike, slowed = (_measure(factor) for factor in (1.0, SLOWER))
    finally:
        ray.shutdown()
    note(f"  {'':>14}{'rows/s':>10}{'slowed':>10}{'kept':>7}{'loss':>9}{'slowed':>9}  stale, unseen updates (slowed)")
    for name in STRATEGIES:
        even, held = alike[name], slowed[name]
        stale = held[0].measured
        note(
            f"  {name:>14}{_rows(even):>10.0f}{_rows(held):>10.0f}{_rows(held) / _rows(even):>7.2f}"
            f"{even[0].loss:>9.4f}{held[0].loss:>9.4f}  "
            f"{stale.get('staleness_max', 0):.0f}, {stale.get('unseen_updates_max', 0):.0f}"
        )
        figure(
            f"ps_vs_allreduce {name}",
            "rows/s, slowed over alike",
            [_rows(held)],
            [_rows(even)],
            steps_per_second=round(held[0].steps / held[0].seconds + held[1].steps / held[1].seconds, 2),
            loss=round(held[0].loss, 4),
            loss_alike=round(even[0].loss, 4),
            measured=stale,
        )


def _measure(slow_factor: float) -> dict[str, list[Speed]]:
    jobs = [
        Job(seconds=SECONDS, strategy=spec, batch_size=BATCH, hidden=HIDDEN, slow_factor=slow_factor, more=MORE)
        for spec in STRATEGIES.values()
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kind = ray.remote(num_cpus=1)(member)
    ranks = ray.get([kind.remote(rank, 2, port, jobs) for rank in range(2)])
    return {name: [rank[place] for rank in ranks] for place, name in enumerate(STRATEGIES)}


def _rows(speeds: list[Speed]) -> float:
    """Return the rows of both workers in a second."""
    return sum(one.rows / one.seconds for one in speeds)


if __name__ == "__main__":
    main()
