"""How far two distributions are apart, from histograms and counts alone.

Both measures are taken over the same bins. For numbers these are at most ten, of about equal share in the first
version, put together from the bins of its histogram; the outer two are open. The second histogram is cut at their
edges as if values lay evenly within its own bins. Half a row is added to every bin, so that an empty one is finite.

The population stability index is sum((q - p) ln(q / p)) (Siddiqi, Credit Risk Scorecards, 2006; above 0.1 is commonly
called a moderate shift, above 0.25 a large one). For two samples of n and m values of one distribution, it is
(bins - 1) (1/n + 1/m) on average (Yurdakul, Statistical Properties of Population Stability Index, 2018). The
Jensen-Shannon distance is the root of the divergence in bits (Endres and Schindelin, 2003).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightmill.records.profile import ColumnSummary, Histogram

BINS = 10
_ADDED = 0.5
_POINT = 1e-9
Counts = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """Two measures of one comparison; see the module."""

    psi: float
    js: float
    by_chance: float
    bins: int


def distance(old: Counts, new: Counts) -> Distance:
    """Return how far two counts over the same bins are apart: float64 [bins] each, at least one row in each."""
    p = (old + _ADDED) / (old.sum() + _ADDED * len(old))
    q = (new + _ADDED) / (new.sum() + _ADDED * len(new))
    middle = (p + q) / 2
    divergence = (np.sum(p * np.log2(p / middle)) + np.sum(q * np.log2(q / middle))) / 2
    return Distance(
        psi=float(np.sum((q - p) * np.log(q / p))),
        js=float(np.sqrt(np.clip(divergence, 0, 1))),
        by_chance=(len(old) - 1) * float(1 / old.sum() + 1 / new.sum()),
        bins=len(old),
    )


def between_histograms(old: Histogram, new: Histogram) -> Distance:
    """Return how far two histograms of numbers are apart; each has at least one value."""
    edges, counts = _edges(old), np.array(old.counts, dtype=np.float64)
    reached = np.cumsum(counts)
    wanted = reached[-1] * np.arange(1, BINS) / BINS
    inner = np.unique(np.searchsorted(reached, wanted * (1 - 1e-12))) + 1
    cuts = edges[inner[inner < len(counts)]]
    if old.edges[0] == old.edges[-1]:  # one value only: below it, it, and above it
        cuts = edges
    return distance(_cut(edges, counts, cuts), _cut(_edges(new), np.array(new.counts, dtype=np.float64), cuts))


def _edges(histogram: Histogram) -> Counts:
    """Return the edges; a histogram of a single value gets a bin of a little width around it."""
    edges = np.array(histogram.edges, dtype=np.float64)
    if edges[0] == edges[-1]:
        room = max(abs(edges[0]), 1.0) * _POINT
        return np.array([edges[0] - room, edges[0] + room])
    return edges


def _cut(edges: Counts, counts: Counts, cuts: Counts) -> Counts:
    """Return the counts below the first cut, between the cuts, and above the last."""
    below = np.interp(cuts, edges, np.concatenate([[0.0], np.cumsum(counts)]))
    return np.diff(np.concatenate([[0.0], below, [counts.sum()]]))


def between_categories(old: ColumnSummary, new: ColumnSummary) -> Distance | None:
    """Return how far the counts of two columns' values are apart, or None where values were not counted.

    Values whose count is known in both versions have a bin each, all others share one.
    """
    if not (old.top and new.top) or any(value.at_least for value in (*old.top, *new.top)):
        return None
    first = {value.value: value.count for value in old.top}
    second = {value.value: value.count for value in new.top}
    known = [name for name in {**first, **second} if _knows(old, first, name) and _knows(new, second, name)]
    counts = [np.array([found.get(name, 0) for name in known], dtype=np.float64) for found in (first, second)]
    rests = [column.count - part.sum() for column, part in zip((old, new), counts, strict=True)]
    if any(rest > 0 for rest in rests):
        counts = [np.append(part, max(rest, 0)) for part, rest in zip(counts, rests, strict=True)]
    return distance(counts[0], counts[1])


def _knows(column: ColumnSummary, counted: dict[str, int], name: str) -> bool:
    return name in counted or (column.distinct_exact and column.distinct == len(counted))
