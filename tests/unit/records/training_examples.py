"""One example of every record of training specifications."""

from __future__ import annotations

from lightmill.records import training
from lightmill.records.base import Record

TRAINING: tuple[Record, ...] = (
    training.OptimizerSpec(name="sgd", arguments={"momentum": 0.9, "nesterov": True}),
    training.ScheduleSpec(name="cosine", warmup_share=0.1),
    training.EarlyStoppingSpec(patience=2, min_delta=0.01),
    training.LoraSpec(rank=4, targets=("*.query", "*.value")),
    training.StartSpec(model="m@2", freeze=("blocks.0.*",), lora=training.LoraSpec()),
    training.DdpSpec(bucket_mb=1.5),
    training.FsdpSpec(reshard=False),
    training.TensorSpec(size=2, sequence=True),
    training.PipelineSpec(stages=2, schedule="gpipe"),
    training.ContextSpec(size=2),
    training.HybridSpec(data=2, tensor=2, pipeline=2, shard=True),
    training.ParameterServerSpec(servers=2, consistency="ssp", staleness=3),
    training.OuterOptimizerSpec(learning_rate=1.0, momentum=0.0, nesterov=False),
    training.LocalSgdSpec(local_steps=4),
    training.RingSpec(every_steps=2),
    training.HybridSyncSpec(group_size=4, consistency="bsp"),
    training.CheckpointSpec(every_steps=50, keep_last=3, asynchronous=False),
    training.FailureSpec(worker=0, preemption=5),
    training.MlflowSpec(tracking_uri="http://127.0.0.1:5000"),
    training.WatchSpec(every_steps=0, mlflow=training.MlflowSpec(tracking_uri="http://a.example"), profile_steps=3),
    training.WorkerRange(min=2, max=8),
)
