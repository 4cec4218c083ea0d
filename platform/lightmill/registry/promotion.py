"""Whether a version may move to a stage. A pure decision: what is said of it in, evidence or what is missing out.

Stages are none, staging, production, archived. `production` needs one evaluation on rows that were held out
(validation or test) in which every required condition holds; the newest such evaluation is the evidence. What was
archived goes back through staging. All other moves are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightmill.records.annotations import Evaluation, Notes, Stage
from lightmill.records.search import Comparison

HELD_OUT = ("validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The move is allowed if nothing is missing; `evidence` is the evaluation that allows it, where one must."""

    missing: tuple[str, ...] = ()
    evidence: Evaluation | None = None


def decide(notes: Notes, stage: Stage, required: Sequence[Comparison] = ()) -> Decision:
    """Return whether what is said of a version lets it move to `stage`, and on what evidence."""
    if stage is not Stage.PRODUCTION:
        return Decision()
    missing = ["a move to staging, since it is archived"] if notes.stage is Stage.ARCHIVED else []
    held_out = [evaluation for evaluation in notes.evaluations if evaluation.split in HELD_OUT]
    good = [e for e in held_out if all(condition.holds(e.metrics) for condition in required)]
    if not held_out:
        missing.append("an evaluation on the validation or test split")
    elif not good:
        missing += [_lacking(c, held_out[-1]) for c in required if not c.holds(held_out[-1].metrics)]
    return Decision(missing=tuple(missing), evidence=None if missing else good[-1])


def _lacking(condition: Comparison, newest: Evaluation) -> str:
    found = newest.metrics.get(condition.metric)
    measured = "it was not measured" if found is None else f"measured {found:.6g}"
    return f"{condition} in one evaluation (in the newest, on {newest.dataset} {newest.split}, {measured})"
