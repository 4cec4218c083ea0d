"""One example of every record of tuning and replays, for the tests that look at all records."""

from __future__ import annotations

from lightmill.records import replay, tuning
from lightmill.records.assets import HardwareState
from lightmill.records.base import Record
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.specs import TrainSpec

_RUN = VersionId(kind=AssetKind.RUN, name="r", seq=1, digest="ab" * 32)
_DIMENSION = tuning.Dimension(loguniform=(1e-4, 0.1))
_TRIAL = tuning.Trial(number=0, values={"a.b": [1, None, "x"]}, state="done", metric=0.1, checkpoint=_RUN)
_DIFFERENCE = replay.Difference(what="package torch", then="1", now="2", matters=True)
_TRAIN = TrainSpec.model_validate({"model": "m", "dataset": "d@1", "architecture": {"name": "mlp", "arguments": {}}})
TUNING: tuple[Record, ...] = (
    HardwareState(machine="x86_64", processor="p", capability="AVX2", system="Linux", threads=1, workers=2),
    _DIMENSION,
    tuning.RandomSpec(),
    tuning.GridSpec(),
    tuning.AshaSpec(grace_epochs=2, reduction=4),
    tuning.PbtSpec(every_epochs=3, quantile=0.5, resample=0.0),
    tuning.OptunaSpec(startup=3),
    tuning.LimitSpec(parameters=1000, latency_ms=0.5),
    tuning.TuneSpec(train=_TRAIN, search={"learning_rate": _DIMENSION}, algorithm=tuning.AshaSpec(), trials=3),
    _TRIAL,
    tuning.TrialTable(job="j", metric="loss", mode="min", wanted=3, algorithm="asha", trials=(_TRIAL,), best=0),
    replay.ReplaySpec(run="train-m-1"),
    _DIFFERENCE,
    replay.ReplayReport(
        run="train-m-1",
        version=VersionId(kind=AssetKind.MODEL, name="m", seq=1, digest="cd" * 32),
        dataset=VersionId(kind=AssetKind.DATASET, name="d", seq=1, digest="cd" * 32),
        deterministic=True,
        equal=False,
        digest="aa",
        found="bb",
        differences=(_DIFFERENCE,),
        metrics={"validation_loss": (0.1, None)},
    ),
)
