"""Learning rates over the steps of a run, as factors of the specification's."""

from __future__ import annotations

import math

from lightmill.records.training import ScheduleSpec


def learning_rate_factor(spec: ScheduleSpec, step: int, steps: int, epoch_steps: int) -> float:
    """Return the factor of a step.

    Args:
        spec: The schedule.
        step: Counted from 0 over the whole run.
        steps: The steps of the whole run.
        epoch_steps: The steps of an epoch.
    """
    warmup = spec.warmup_steps or round(spec.warmup_share * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    epoch = step // max(1, epoch_steps)
    match spec.name:
        case "linear":
            return 1 - (1 - spec.final) * done
        case "cosine":
            return spec.final + (1 - spec.final) * (1 + math.cos(math.pi * done)) / 2
        case "inverse_sqrt":
            return math.sqrt(max(1, warmup) / max(1, step))
        case "exponential":
            return spec.gamma**epoch
        case "step":
            return spec.gamma ** (epoch // spec.every_epochs)
        case "constant":
            return 1.0
