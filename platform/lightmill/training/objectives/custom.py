"""A user's own loss, by its import path: of the label's classes, or with `target` of a number."""

from __future__ import annotations

from typing import Any

import torch

from lightmill.errors import JobError, RequestError
from lightmill.models.functions import load_function
from lightmill.records.assets import DatasetCard
from lightmill.records.signature import Architecture
from lightmill.training.objectives.asked import Asked
from lightmill.training.objectives.port import NOTHING
from lightmill.training.objectives.regression import Regression
from lightmill.training.objectives.supervised import OfClasses

FUNCTION = "function"


class CustomLoss:
    """The function `objective_arguments.function`, called with outputs, targets and the other arguments by name.

    Outputs are float32 [rows, classes] and targets int64 [rows], or [rows, 1] and float32 [rows] of a number. It
    returns the loss of each row [rows], or their mean; workers weigh their means by rows.
    """

    def __init__(self, asked: Asked) -> None:
        """Import the function; RequestError if none is given or allowed, or it is not there."""
        path = asked.arguments.get(FUNCTION)
        if not isinstance(path, str) or ":" not in path:
            raise RequestError(
                f"`objective: custom` needs objective_arguments.function, such as 'my_pkg.losses:loss'; given {path!r}."
            )
        self._path = path
        self._function = load_function(path, "`objective: custom`", allowed=asked.allow_python)
        self._arguments: dict[str, Any] = {k: v for k, v in asked.arguments.items() if k != FUNCTION}

    def __call__(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean loss; JobError if the function fails, or returns something else."""
        try:
            found = self._function(outputs, target, **self._arguments)
        except Exception as exc:  # a user's function may raise anything
            raise JobError(f"{self._path!r} raised {type(exc).__name__}: {exc}") from exc
        if not isinstance(found, torch.Tensor) or found.shape not in ((), target.shape):
            what = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise JobError(
                f"{self._path!r} returned {what}; it must return the loss of each of the {len(target)} rows, or "
                "the mean."
            )
        return found.mean()


class CustomOfClasses(OfClasses):
    """A user's loss of the label."""

    name = "custom"

    def __init__(self, card: DatasetCard, architecture: Architecture, asked: Asked = NOTHING) -> None:
        asked.refuse_weights(self.name)
        super().__init__(card, architecture, asked)
        self._loss = CustomLoss(asked)

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See the base."""
        return self._loss(outputs, target)


class CustomOfNumbers(Regression):
    """A user's loss of the source column `target`."""

    name = "custom"

    def __init__(self, card: DatasetCard, architecture: Architecture, asked: Asked = NOTHING) -> None:
        super().__init__(card, architecture, asked)
        self._loss = CustomLoss(asked)

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See the base."""
        return self._loss(outputs, target)
