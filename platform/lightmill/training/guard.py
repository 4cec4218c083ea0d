"""Notices that a run diverged, in the step in which it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from lightmill.errors import JobError
from lightmill.records.references import VersionId
from lightmill.training.objectives import Step

SHOWN_ROWS = 100
LOOK_EVERY = 32
RowIds = Callable[[int, int], list[int]]


class Guard:
    """Looks at the loss of every step: at once on a CPU; many steps at a time on a device, which would have to wait."""

    def __init__(self, rank: int, device: torch.device, row_ids: RowIds, last: Callable[[], VersionId | None]) -> None:
        """Watch one worker; `row_ids` of (epoch, step) and the `last` checkpoint are asked when a run diverged."""
        self._rank = rank
        self._every = 1 if device.type == "cpu" else LOOK_EVERY
        self._row_ids = row_ids
        self._last = last
        self._waiting: list[tuple[int, int, torch.Tensor]] = []

    def see(self, epoch: int, step: int, steps: Sequence[Step]) -> None:
        """Take the losses of a step.

        Raises:
            JobError: One is not finite; the message names the step, this worker's rows of it, and the last checkpoint.
        """
        self._waiting += [(epoch, step, one.loss.detach()) for one in steps]
        if len(self._waiting) >= self._every:
            self.look()

    def look(self) -> None:
        """Look at the losses that wait; see `see` for the errors."""
        waiting, self._waiting = self._waiting, []
        for epoch, step, loss in waiting:
            if not math.isfinite(float(loss)):
                raise JobError(self._told(epoch, step, float(loss)))

    def _told(self, epoch: int, step: int, loss: float) -> str:
        rows = self._row_ids(epoch, step)
        more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
        named = ", ".join(map(str, rows[:SHOWN_ROWS])) + more
        return (
            f"Training diverged: the loss is {loss} in step {step + 1} of epoch {epoch + 1}. Worker {self._rank} had "
            f"the rows with row_id {named}. The last good checkpoint is {self._last() or 'none'}. Look for extreme "
            "values in these rows, lower `learning_rate`, or set `clip_norm`."
        )
