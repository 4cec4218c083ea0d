"""When requests come: made by chance, or as an access log says.

A rate that changes is made by thinning (P. A. W. Lewis and G. S. Shedler, 1979): arrivals at the highest rate, each
kept with a chance of rate / highest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from random import Random

from lightmill.errors import RequestError
from lightmill.records.simulations import ConstantTrace, DiurnalTrace, FileTrace, SpikeTrace, Trace
from lightmill.serving.simulation.access_log import read_times


def arrivals(trace: Trace, draw: Random) -> tuple[list[float], float]:
    """Return the seconds at which requests come, in order, and how long the trace is.

    Raises:
        RequestError: The file of the trace is missing or no access log, or nothing comes.
    """
    if isinstance(trace, FileTrace):
        found = [moment / trace.speed for moment in read_times(Path(trace.path), trace.field, trace.most)]
        return found, found[-1] + 1.0
    found = _thinned(rate_of(trace), max(trace.rate, getattr(trace, "low", 0.0)), trace.duration_s, draw)
    if not found:
        raise RequestError(
            f"Nothing comes in {trace.duration_s:g} s at {trace.rate:g} requests a second; raise the rate."
        )
    return found, trace.duration_s


def rate_of(trace: ConstantTrace | DiurnalTrace | SpikeTrace) -> Callable[[float], float]:
    """Return the rate of arrivals over time; a period begins at its lowest."""
    if isinstance(trace, DiurnalTrace):
        middle, swing = (trace.rate + trace.low) / 2, (trace.rate - trace.low) / 2
        return lambda at_s: middle - swing * math.cos(2 * math.pi * at_s / trace.period_s)
    if isinstance(trace, SpikeTrace):
        return lambda at_s: trace.rate if trace.at_s <= at_s < trace.at_s + trace.length_s else trace.low
    return lambda at_s: trace.rate


def _thinned(rate: Callable[[float], float], highest: float, duration_s: float, draw: Random) -> list[float]:
    found: list[float] = []
    at_s = 0.0
    while (at_s := at_s + draw.expovariate(highest)) < duration_s:
        if draw.random() * highest < rate(at_s):
            found.append(at_s)
    return found
