"""Policies compared on one trace: cost against missed objectives."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from lightmill.errors import RequestError
from lightmill.records.scaling import QueuePolicy, ReplicasSpec
from lightmill.records.simulations import SimulatedPolicy, SimulationPoint, SimulationReport, SimulationSpec
from lightmill.serving.simulation.arrivals import arrivals
from lightmill.serving.simulation.simulator import Answered, Simulator

POINTS = 60


def simulate(spec: SimulationSpec, tell: Callable[[str, int, int], None] | None = None) -> SimulationReport:
    """Return what each policy cost and missed; `tell` hears of each its name, how many are done, and of how many.

    Raises:
        RequestError: The trace cannot be read, or has nothing after `skip_s`.
    """
    found, duration_s = arrivals(spec.trace, Random(f"{spec.seed} arrivals"))  # noqa: S311 - repeatable on purpose
    if spec.skip_s >= duration_s:
        raise RequestError(f"skip_s {spec.skip_s:g} leaves nothing of {duration_s:g} s to count; skip less.")
    chosen = {policy.name: spec.replicas.model_copy(update={"policy": policy}) for policy in spec.policies}
    if spec.fixed:
        chosen["fixed"] = ReplicasSpec(min=spec.replicas.max, max=spec.replicas.max, policy=QueuePolicy())
    results = []
    for place, (name, replicas) in enumerate(chosen.items()):
        if tell:
            tell(name, place, len(chosen))
        results.append(_judged(spec, name, Simulator(spec, replicas).run(found, duration_s)))
    return SimulationReport(requests=len(found), duration_s=duration_s, slo_ms=spec.slo_ms, policies=tuple(results))


def _judged(spec: SimulationSpec, name: str, answered: Answered) -> SimulatedPolicy:
    begin_s, end_s = spec.skip_s, max(answered.ended_s, spec.skip_s)
    pairs = [(at, took) for at, took in zip(answered.arrived, answered.latency, strict=True) if at >= begin_s]
    latencies = sorted(took for _, took in pairs)
    slo_s = spec.slo_ms / 1000
    spans = [(max(one.begun_s, begin_s), one.gone_s if one.gone_s is not None else end_s) for one in answered.replicas]
    replica_s = sum(max(0.0, gone - begun) for begun, gone in spans)
    return SimulatedPolicy(
        policy=name,
        requests=len(pairs),
        refused=sum(math.isinf(took) for took in latencies),
        missed=sum(took > slo_s for took in latencies),
        p50_ms=_percentile_ms(latencies, 0.50),
        p99_ms=_percentile_ms(latencies, 0.99),
        replica_s=round(replica_s, 3),
        mean_replicas=round(replica_s / (end_s - begin_s), 3) if end_s > begin_s else 0.0,
        most_replicas=_most(spans),
        changes=answered.changes,
        points=_points(pairs, spans, slo_s, begin_s, end_s),
    )


def _percentile_ms(ordered: list[float], share: float) -> float:
    """Return a percentile of what was answered, in milliseconds; 0 if nothing was."""
    finite = [took for took in ordered if not math.isinf(took)]
    return round(finite[min(len(finite) - 1, math.ceil(share * len(finite)) - 1)] * 1000, 3) if finite else 0.0


def _most(spans: list[tuple[float, float]]) -> int:
    """Return how many replicas were there at once, at most."""
    there = most = 0
    for _, change in sorted(
        [(begun, 1) for begun, gone in spans if gone > begun] + [(g, -1) for b, g in spans if g > b]
    ):
        there += change
        most = max(most, there)
    return most


def _points(
    pairs: list[tuple[float, float]], spans: list[tuple[float, float]], slo_s: float, begin_s: float, end_s: float
) -> tuple[SimulationPoint, ...]:
    width = (end_s - begin_s) / POINTS
    if width <= 0:
        return ()
    came, missed = [0] * POINTS, [0] * POINTS
    for at_s, took_s in pairs:
        place = min(POINTS - 1, int((at_s - begin_s) / width))
        came[place] += 1
        missed[place] += took_s > slo_s
    found = []
    for place in range(POINTS):
        start, stop = begin_s + place * width, begin_s + (place + 1) * width
        there = sum(max(0.0, min(gone, stop) - max(begun, start)) for begun, gone in spans)
        found.append(
            SimulationPoint(
                at_s=round(start, 3),
                requests_per_s=round(came[place] / width, 3),
                replicas=round(there / width, 3),
                missed=round(missed[place] / came[place], 4) if came[place] else 0.0,
            )
        )
    return tuple(found)
