"""One worker to two on two cores, a simulated cluster held against it, and what that predicts for 1,024 workers.

Workers of one thread each train a perceptron; a worker has as many rows of a step whatever their number. With
`ROWS_EACH` of them sending gradients over the loopback takes a sixth of a step; `train_scaling` is of `BOUND_ROWS`,
with which it is bound by computing, and the other is printed beside it. The simulation
(`lightmill.training.simulation`) is told the time of one computation with both cores busy and the link that a few
all-reduces showed; its steps a second of two workers are printed beside the measured ones.
"""

from __future__ import annotations

import multiprocessing
import socket
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from pydantic import TypeAdapter

from benchmarks.figures import figure, note
from benchmarks.team_speed import Job, Speed, all_reduce_times, member
from lightmill.records.training import StrategySpec
from lightmill.training.simulation import Cluster, Link, Stragglers, Workload, fitted_link, predict, speed_curve

GOAL = 1.8
RUNS = 3
SECONDS = 5.0
ROWS_EACH, BOUND_ROWS = 1024, 4096
HIDDEN = [1024, 1024]
PARAMETER_BYTES = 4 * sum((i + 1) * o for i, o in zip((256, 1024, 1024), (1024, 1024, 10), strict=True))
SIZES = [16 << 10, 256 << 10, 1 << 20, 8 << 20]
MEASURED: dict[str, dict[str, Any]] = {
    "ddp": {"name": "ddp"},
    "local_sgd": {"name": "local_sgd", "local_steps": 8},
    "ring": {"name": "ring"},
}
PREDICTED: dict[str, dict[str, Any]] = MEASURED | {
    "fsdp": {"name": "fsdp"},
    "tensor": {"name": "tensor"},
    "pipeline": {"name": "pipeline", "microbatches": 32},
    "context": {"name": "context"},
    "hybrid": {"name": "hybrid", "tensor": 8},
    "bsp": {"name": "parameter_server", "servers": 16},
    "asp": {"name": "parameter_server", "servers": 16, "consistency": "asp"},
    "ssp": {"name": "parameter_server", "servers": 16, "consistency": "ssp", "staleness": 2},
    "hybrid_sync": {"name": "hybrid_sync", "group_size": 8, "servers": 16},
}
WORKERS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
# Written down, not measured: a decoder of 350 million parameters, 8 rows of 1,024 tokens a GPU in bf16, 100 Gbit/s.
THOUSAND = Workload(
    compute_s=0.5, parameter_bytes=4 * 350e6, layers=24, activation_bytes=8 * 1024 * 1024 * 2.0, overlap=0.6
)
FAST_LINK = Link(bytes_per_s=12.5e9, latency_s=5e-6)
JITTER = Stragglers(variation=0.1)


def main() -> None:
    """Measure, compare, predict."""
    _bound()
    one, two = [], {name: [] for name in MEASURED}
    computing: list[float] = []
    for run in range(RUNS):
        one.append(_rate(_team(1, [_job("ddp", 1)])[0]))
        for found in _by_strategy():
            two[found[0]].append(found[1])
            computing.append(found[2])
        note(f"  run {run + 1}: one {one[-1]:.2f}, " + ", ".join(f"{n} {v[-1]:.2f} steps/s" for n, v in two.items()))
    figure("train_scaling_of_few_rows", "rows/s of two workers over one", [2 * rate for rate in two["ddp"]], one)
    link = fitted_link(SIZES, _call(2, all_reduce_times, SIZES)[0], 2)
    work = Workload(compute_s=statistics.median(computing), parameter_bytes=PARAMETER_BYTES)
    note(f"  link {link.bytes_per_s / 1e9:.2f} GB/s, {link.latency_s * 1e6:.0f} us; computing {work.compute_s:.4f} s")
    for name, rates in two.items():
        told = predict(_spec(PREDICTED[name]), work, Cluster(workers=2, link=link))
        figure(f"train_scaling_predicted_{name}", "steps/s, measured over predicted", rates, [told])
    _table()


def _bound() -> None:
    """Measure the model that is bound by computing."""
    one, two = [], []
    for run in range(RUNS):
        one.append(_rate(_team(1, [_job("ddp", 1, BOUND_ROWS)])[0]))
        two.append(statistics.mean(_rate(rank) for rank in _team(2, [_job("ddp", 2, BOUND_ROWS)])))
        note(f"  run {run + 1} of {BOUND_ROWS} rows: one {one[-1]:.2f}, two {two[-1]:.2f} steps/s")
    figure(
        "train_scaling",
        "rows/s of two workers over one",
        [2 * rate for rate in two],
        one,
        goal=f">= {GOAL}",
        holds=lambda ratio: ratio >= GOAL,
    )


def _table() -> None:
    """Print the predicted speed-ups of a cluster of fast links."""
    note("  predicted speed-up, 350M parameters, 0.5 s of computing a step, 100 Gbit/s, times that vary by 10 %:")
    note(f"  {'workers':>12}" + "".join(f"{workers:>8}" for workers in WORKERS))
    for name, spec in sorted(PREDICTED.items()):
        curve = speed_curve(_spec(spec), THOUSAND, FAST_LINK, WORKERS, JITTER)
        note(f"  {name:>12}" + "".join(f"{one.speed_up:>8.1f}" for one in curve))
        speeds = {str(one.workers): round(one.speed_up, 2) for one in curve}
        figure(f"train_scaling_1024_{name}", "speed-up predicted", [curve[-1].speed_up], curve=speeds)


def _spec(spec: dict[str, Any]) -> StrategySpec:
    return TypeAdapter[StrategySpec](StrategySpec).validate_python(spec)


def _job(name: str, world: int, rows: int = ROWS_EACH) -> Job:
    return Job(seconds=SECONDS, strategy=MEASURED[name], batch_size=rows * world, hidden=HIDDEN)


def _by_strategy() -> list[tuple[str, float, float]]:
    """Return the name, steps a second and seconds of computing of two workers by each strategy."""
    ranks = _team(2, [_job(name, 2) for name in MEASURED])
    return [
        (name, statistics.mean(_rate(rank[place : place + 1]) for rank in ranks), ranks[0][place].compute_s)
        for place, name in enumerate(MEASURED)
    ]


def _rate(speeds: list[Speed]) -> float:
    return speeds[0].steps / speeds[0].seconds


def _team(world: int, jobs: list[Job]) -> list[list[Speed]]:
    return _call(world, member, jobs)


def _call(world: int, function: Callable[..., Any], argument: Any) -> list[Any]:
    """Call a function in some processes of their own, as ranks of a team."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.team_speed"])
    with ProcessPoolExecutor(world, mp_context=context) as pool:
        waiting = [pool.submit(function, rank, world, port, argument) for rank in range(world)]
        return [one.result() for one in waiting]


if __name__ == "__main__":
    main()
