"""One example of every record of plans."""

from __future__ import annotations

from lightmill.records import plans
from lightmill.records.base import Record

NODE = plans.NodeRoom(name="10.0.0.1", cpus=2.0, gpus=0.5, memory_bytes=8 << 30)
STRATEGY = plans.StrategyPlan(strategy="ddp", layout="data 2", parameter_bytes=4, step_s=0.1, run_s=1.5, fits=True)
PLANS: tuple[Record, ...] = (
    NODE,
    STRATEGY,
    plans.TrainPlan(
        model="m",
        dataset="d@1",
        parameters=5,
        trained_parameters=4,
        workers=2,
        batch_size=8,
        steps_per_epoch=3,
        steps=6,
        precision="bf16",
        link_gbits=10.0,
        placement="2 workers x 1 CPU on cpu (gloo)",
        placed=True,
        nodes=(NODE,),
        strategies=(STRATEGY, plans.StrategyPlan(strategy="tensor", refused="it has no plan")),
        notes=("a note",),
    ),
)
