"""The form of a figure."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence


def figure(
    what: str,
    unit: str,
    ours: Sequence[float],
    peer: Sequence[float] | None = None,
    *,
    goal: str = "",
    holds: Callable[[float], bool] | None = None,
    **more: object,
) -> None:
    """Print one figure: medians, their ratio, and whether the goal holds (null where none is set)."""
    our_median = statistics.median(ours)
    peer_median = statistics.median(peer) if peer else None
    ratio = our_median / peer_median if peer_median else None
    judged = ratio if ratio is not None else our_median
    line = {
        "what": what,
        "ours": round(our_median, 4),
        "peer": None if peer_median is None else round(peer_median, 4),
        "unit": unit,
        "ratio": None if ratio is None else round(ratio, 4),
        "goal": goal or None,
        "holds": None if holds is None else holds(judged),
        "runs": len(ours),
        **more,
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Say on standard error what is being measured."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
