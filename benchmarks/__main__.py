"""`make bench`: all benchmarks, or those named as arguments; `registry` and `data` stand for all of theirs.

`--quick` takes smaller models or fewer rows where a benchmark has a size.
"""

from __future__ import annotations

import sys

from benchmarks import (
    balance_uneven,
    catalog_scale,
    checkpoint_stall,
    data,
    first_prediction,
    plan_accuracy,
    ps_vs_allreduce,
    sealed_load,
    sealed_publish,
    sealed_reads,
    sealed_remote,
    serve_small,
    train_fsdp,
    train_overhead,
    train_scaling,
    train_start,
    watching_cost,
)
from benchmarks.figures import note

BENCHMARKS = {
    "first_prediction": first_prediction.main,
    "train_overhead": train_overhead.main,
    "train_start": train_start.main,
    "watching_cost": watching_cost.main,
    "plan_accuracy": plan_accuracy.main,
    "train_scaling": train_scaling.main,
    "ps_vs_allreduce": ps_vs_allreduce.main,
    "train_fsdp": train_fsdp.main,
    "checkpoint_stall": checkpoint_stall.main,
    "serve_small": serve_small.main,
    "balance_uneven": balance_uneven.main,
    "catalog_scale": catalog_scale.main,
    "load_warm": sealed_load.warm,
    "load_cold": sealed_load.cold,
    "load_memory": sealed_load.memory,
    "load_reads": sealed_reads.main,
    "load_s3": sealed_remote.main,
    "publish": sealed_publish.main,
    "ingest_throughput": data.throughput,
    "ingest_memory": data.memory,
    "ingest_sealing": data.sealing,
    "read_for_training": data.reading,
}
GROUPS = {
    "registry": ["load_warm", "load_cold", "load_memory", "load_reads", "load_s3", "publish", "catalog_scale"],
    "train": [
        "train_start",
        "train_overhead",
        "train_fsdp",
        "checkpoint_stall",
        "train_scaling",
        "ps_vs_allreduce",
        "watching_cost",
        "plan_accuracy",
    ],
    "data": ["ingest_throughput", "ingest_memory", "ingest_sealing", "read_for_training"],
}


def main() -> int:
    """Run benchmarks by name."""
    asked = [word for word in sys.argv[1:] if word != "--quick"] or list(BENCHMARKS)
    names = [name for word in asked for name in GROUPS.get(word, [word])]
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        note(f"There is no benchmark {unknown[0]!r}; choose from {', '.join([*BENCHMARKS, *GROUPS])}.")
        return 2
    for name in names:
        note(f"benchmark {name} ...")
        BENCHMARKS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
