"""One example of every record of serving: batching, balancing, scaling, simulation."""

from __future__ import annotations

from lightmill.records import (
    balancing,
    batching,
    graphs,
    multiplexing,
    parallel,
    rollouts,
    scaling,
    signals,
    simulations,
    traffic,
    tuned,
)
from lightmill.records.base import Record
from lightmill.records.masking import MaskingPolicy
from lightmill.records.references import AssetKind, VersionId

WINDOW = scaling.ScheduleWindow(days="mon-fri,sun", start="22:00", end="06:00", min=2, max=3)
FORECAST = scaling.ForecastPolicy(method="seasonal_naive", season_s=600, bucket_s=10, requests_per_s=30)
POINT = simulations.SimulationPoint(at_s=0.5, requests_per_s=3.0, replicas=1.5, missed=0.1)
POLICY = simulations.SimulatedPolicy(
    policy="queue",
    requests=9,
    refused=1,
    missed=2,
    p50_ms=1.0,
    p99_ms=2.0,
    replica_s=30.5,
    mean_replicas=1.5,
    most_replicas=2,
    changes=3,
    points=(POINT,),
)
NODE = graphs.EndpointNode(endpoint="e", inputs={"x": "y"})
MODEL = VersionId(kind=AssetKind.MODEL, name="m", seq=4, digest="ab" * 32)
SPREAD = signals.Distribution(bounds=(0.1, 1.0), counts=(1, 0, 2), total=7.25)
COUNTS = signals.TargetCounts(
    name="next", version="4", requests=9, errors=2, fallbacks=1, seconds=SPREAD, shadows=3, shadow_errors=1, differed=2
)
CANARY = traffic.CanarySpec(
    steps=(1, 50), bake_s=(60, 600), max_error_rate=0.1, p99_ms=40, p99_ratio=None, min_requests=7, on_success="hold"
)
CANDIDATE = traffic.CandidateSpec(name="next", model="m@4", canary=CANARY, replicas=scaling.ReplicasSpec(max=3))
TRAFFIC = traffic.TrafficSpec(
    candidates=(CANDIDATE, traffic.CandidateSpec(name="shade", model="m@2", shadow=0.5)),
    sticky=traffic.StickySpec(by="header", header="x-user"),
    timeout_s=3,
    compare=traffic.CompareSpec(rtol=0.1, classes_only=True),
    differences=traffic.DifferencesSpec(masking="staff@2", part_rows=5),
)
TARGET = traffic.TrafficTarget(name="next", application="a", version=MODEL, percent=5, canary=True)
EVENT = rollouts.TrafficEvent(at="2026-01-01T00:00:00.000Z", phase=rollouts.TrafficPhase.RUNNING, reason="r")
ROW = rollouts.TrafficRow(name="next", version=MODEL, role="canary", percent=5, state="running", requests=9, p50_ms=1.5)
SERVING: tuple[Record, ...] = (
    batching.BatchingSpec(max_wait_ms=5, timeout_ms=None, length_buckets=(16, 64)),
    balancing.BalancingSpec(name="hash", header="x-customer"),
    parallel.ParallelSpec(kind="tensor", ranks=2, timeout_s=5),
    parallel.SplitSpec(rows=100, at_once=3),
    multiplexing.ModelsSpec(names=("store-*", "base"), alias="latest", memory_mb=12.5, follow_s=0),
    tuned.TuningSpec(compile=True, channels_last=True, interop_threads=2),
    NODE,
    graphs.SequenceNode(steps=(NODE, NODE)),
    graphs.ParallelNode(branches=(NODE, graphs.SequenceNode(steps=(NODE,))), join="mean", outputs=("value",)),
    graphs.SwitchNode(field="lang", cases={"de": NODE}, default=NODE),
    scaling.QueuePolicy(),
    scaling.LatencyPolicy(objective_ms=100),
    WINDOW,
    scaling.SchedulePolicy(timezone="Europe/Berlin", windows=(WINDOW,)),
    FORECAST,
    scaling.ReplicasSpec(min=0, max=4, policy=FORECAST, downscale_to_zero_delay_s=60),
    simulations.ConstantTrace(rate=1, duration_s=2),
    simulations.DiurnalTrace(rate=2, low=1, period_s=3, duration_s=9),
    simulations.SpikeTrace(rate=2, at_s=1, length_s=1, duration_s=9),
    simulations.FileTrace(path="access.log.gz", speed=2),
    simulations.SimulatedService(slow=(4.0, 1.0)),
    simulations.SimulationSpec(
        trace=simulations.SpikeTrace(rate=2, at_s=1, length_s=1, duration_s=9),
        policies=(scaling.QueuePolicy(), FORECAST),
        skip_s=2,
    ),
    POINT,
    POLICY,
    simulations.SimulationReport(requests=9, duration_s=3.0, slo_ms=200.0, policies=(POLICY,)),
    COUNTS,
    signals.TrafficSignals(generation=3, window=(COUNTS,), totals=(COUNTS,)),
    CANARY,
    CANDIDATE,
    *(TRAFFIC.sticky, TRAFFIC.compare, TRAFFIC.differences),
    TRAFFIC,
    TARGET,
    traffic.TrafficPlan(
        endpoint="e",
        generation=2,
        targets=(TARGET,),
        masking=MaskingPolicy.model_validate(
            {"name": "staff", "version": 2, "rules": [{"detectors": ["all"], "action": "redact"}]}
        ),
    ),
    EVENT,
    rollouts.TrafficState(
        spec=TRAFFIC,
        phase=rollouts.TrafficPhase.HOLDING,
        stable=MODEL,
        versions={"next": MODEL},
        candidate="next",
        step=1,
        since=1.5,
        baseline=COUNTS,
        apps={"next": "running"},
        events=(EVENT,),
    ),
    rollouts.TrafficAsked(what="promote", candidate="next", at="2026-01-01T00:00:00.000Z"),
    ROW,
    rollouts.TrafficReport(endpoint="e", rows=(ROW,), phase=rollouts.TrafficPhase.RUNNING, step=1, steps=(1, 50)),
    rollouts.ShadowDifference(
        at="2026-01-01T00:00:00.000Z",
        request="r-1",
        candidate="shade",
        stable_version="m@3",
        candidate_version="m@4",
        row=2,
        output="y",
        kind="value",
        absolute=0.5,
        values={"x": [1.0, None], "note": "[email]"},
    ),
)
