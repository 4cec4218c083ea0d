"""What objectives count, added up over steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightmill.training.objectives import Objective, Step


class Tally:
    """Adds up what an objective counts, many steps at a time, so that counting costs a step next to nothing."""

    FLUSH_STEPS = 256

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._waiting: list[Step] = []
        self._sums: torch.Tensor | None = None

    def add(self, steps: Sequence[Step]) -> None:
        """Count the parts of a step."""
        self._waiting += [Step(loss=step.loss.detach(), count=step.count, kept=step.kept) for step in steps]
        if len(self._waiting) >= self.FLUSH_STEPS:
            self._flush()

    def totals(self) -> torch.Tensor | None:
        """Return the sums, as `Objective.add_up` gives them; None if nothing was counted."""
        self._flush()
        return None if self._sums is None else self._sums.clone()

    def _flush(self) -> None:
        if self._waiting:
            found = self._objective.add_up(self._waiting)
            self._sums = found if self._sums is None else self._sums + found
            self._waiting = []
