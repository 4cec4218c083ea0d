"""One example of every record of serving: batching, balancing, scaling, simulation."""

from __future__ import annotations

from lightmill.records import balancing, batching, scaling, simulations
from lightmill.records.base import Record

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
SERVING: tuple[Record, ...] = (
    batching.BatchingSpec(max_wait_ms=5, timeout_ms=None, length_buckets=(16, 64)),
    balancing.BalancingSpec(name="hash", header="x-customer"),
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
)
