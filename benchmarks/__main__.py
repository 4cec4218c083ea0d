"""`make bench`: all benchmarks, or those named as arguments.

`registry`, `data`, `train`, `serving` and `chaos` stand for all of theirs. `--quick` takes smaller models or fewer rows
where a benchmark has a size.
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
    serving,
    serving_chaos,
    serving_life,
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
    "serve_mlp": serving.mlp,
    "serve_mlp_batch": serving.mlp_batch,
    "serve_encoder": serving.encoder,
    "serve_1mb": serving.one_megabyte,
    "serve_echo": serving.echo,
    "serve_peers": serving.whole,
    "platform_tax": serving_life.platform_tax,
    "scale_out": serving_life.scale_out,
    "cold_start": serving_life.cold_start,
    "rollout_gap": serving_life.rollout_gap,
    "serving_chaos": serving_chaos.main,
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
    "serving": ["serve_peers", "platform_tax", "scale_out", "cold_start", "rollout_gap"],
    "chaos": ["serving_chaos"],
    "data": ["ingest_throughput", "ingest_memory", "ingest_sealing", "read_for_training"],
}
ON_DEMAND = ("serve_peers", "serving_chaos")
"""All of one kind in one session, and what kills processes."""


def main() -> int:
    """Run benchmarks by name."""
    by_default = [name for name in BENCHMARKS if name not in ON_DEMAND]
    asked = [word for word in sys.argv[1:] if word != "--quick"] or by_default
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
