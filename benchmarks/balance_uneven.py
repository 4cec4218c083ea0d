"""Ways of balancing where one of four replicas is four times slower, by the simulator; the same on any machine.

Requests come without memory, with ten thousand keys, some much more often than others: at a quarter of what all
replicas can do together, where the slow one still keeps up with a fourth of them, and at seven tenths, where it does
not. The judged figure is the 99th percentile of latency over that of round robin.
"""

from __future__ import annotations

from typing import get_args

from benchmarks.figures import figure
from lightmill.records.balancing import BalancingName, BalancingSpec
from lightmill.records.batching import BatchingSpec
from lightmill.records.scaling import ReplicasSpec
from lightmill.records.simulations import ConstantTrace, SimulatedPolicy, SimulatedService, SimulationSpec
from lightmill.serving.simulation.report import simulate

REPLICAS, SLOW = 4, 4.0
BATCH_MS = 20.0
LOADS = (0.25, 0.7)
SECONDS = 120.0
SEEDS = (0, 1, 2)


def main() -> None:
    """Print a figure for each way."""
    for load in LOADS:
        whole = {name: [simulated(name, load, seed) for seed in SEEDS] for name in get_args(BalancingName)}
        peer = [one.p99_ms for one in whole["round_robin"]]
        for name, found in whole.items():
            figure(
                f"balance_uneven: {name} at {load:.0%}",
                "ms, 99th percentile",
                [one.p99_ms for one in found],
                peer,
                p50_ms=round(sum(one.p50_ms for one in found) / len(found), 1),
                missed=round(sum(one.missed for one in found) / sum(one.requests for one in found), 4),
            )


def simulated(name: BalancingName, load: float, seed: int) -> SimulatedPolicy:
    """Return what became of requests that were spread in one way, at a share of what all replicas can do."""
    capacity = (REPLICAS - 1 + 1 / SLOW) * 1000 / BATCH_MS
    spec = SimulationSpec(
        trace=ConstantTrace(rate=load * capacity, duration_s=SECONDS),
        service=SimulatedService(batch_ms=BATCH_MS, row_ms=0, slow=(SLOW,)),
        replicas=ReplicasSpec(min=REPLICAS, max=REPLICAS),
        batching=BatchingSpec(max_rows=1, max_queue_requests=100_000),
        balancing=BalancingSpec(name=name),
        fixed=False,
        slo_ms=200,
        seed=seed,
        keys=10_000,
    )
    return simulate(spec).policies[0]
