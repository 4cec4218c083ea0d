"""Forecasts of a seasonal series, such as requests a second in parts of a day. Pure.

Sources: C. C. Holt (1957) and P. R. Winters (1960), exponential smoothing of level, trend and season; the additive
form with a damped trend as in R. J. Hyndman and G. Athanasopoulos, "Forecasting: Principles and Practice", third
edition, section 8.3; the seasonal naive method is in section 5.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

DAMPING = 0.98
LEVELS, TRENDS, SEASONS = (0.1, 0.3, 0.6), (0.0, 0.02), (0.1, 0.4)


def seasonal_naive(history: Sequence[float], season: int, ahead: int) -> list[float]:
    """Return the next `ahead` values: those of a season before, plus how the last ones differ from theirs.

    Args:
        history: At least one season of values, oldest first.
        season: How many values a season has.
        ahead: How many values are wanted.
    """
    size = len(history)
    seen = min(size - season, max(1, season // 12))
    drift = sum(history[size - n] - history[size - n - season] for n in range(1, seen + 1)) / seen if seen > 0 else 0.0
    return [max(0.0, history[size - season + step % season] + drift) for step in range(ahead)]


def holt_winters(history: Sequence[float], season: int, ahead: int) -> list[float]:
    """Return the next `ahead` values by smoothing, with those weights that foretold the history best.

    With less than two seasons there is nothing to fit, and it is `seasonal_naive`; arguments as there.
    """
    if len(history) < 2 * season:
        return seasonal_naive(history, season, ahead)
    best = min(
        (
            _smoothed(history, season, level, trend, seasonal)
            for level, trend, seasonal in product(LEVELS, TRENDS, SEASONS)
        ),
        key=lambda found: found[0],
    )
    _, level, trend, seasonal = best
    values, damped = [], 0.0
    for step in range(ahead):
        damped += DAMPING ** (step + 1)
        values.append(max(0.0, level + damped * trend + seasonal[(len(history) + step) % season]))
    return values


def _smoothed(
    history: Sequence[float], season: int, alpha: float, beta: float, gamma: float
) -> tuple[float, float, float, list[float]]:
    """Return the squared error of one step ahead, and the level, trend and season at the end."""
    level = sum(history[:season]) / season
    trend = (sum(history[season : 2 * season]) / season - level) / season
    seasonal = [value - level for value in history[:season]]
    error = 0.0
    for place in range(season, len(history)):
        value, was = history[place], seasonal[place % season]
        error += (value - (level + DAMPING * trend + was)) ** 2
        before, carried = level, DAMPING * trend
        level = alpha * (value - was) + (1 - alpha) * (level + carried)
        trend = beta * (level - before) + (1 - beta) * carried
        seasonal[place % season] = gamma * (value - before - carried) + (1 - gamma) * was
    return error, level, trend, seasonal
