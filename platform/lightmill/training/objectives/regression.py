"""A number for each row: squared, absolute and Huber loss."""

from __future__ import annotations

import math

import pyarrow as pa
import torch
from torch.nn import functional

from lightmill.errors import RequestError
from lightmill.models.answers import regressing
from lightmill.records.assets import DatasetCard
from lightmill.records.signature import Architecture, Signature
from lightmill.training.objectives.asked import Asked
from lightmill.training.objectives.port import NOTHING
from lightmill.training.objectives.supervised import Supervised


class Regression(Supervised):
    """Predicts the source column `target`; metrics are the loss, the mean absolute and the root mean square error."""

    measures = ("loss", "mae", "rmse")
    held_out = ("loss", "mae", "rmse")
    task = "numbers"

    def __init__(self, card: DatasetCard, architecture: Architecture, asked: Asked = NOTHING) -> None:
        if asked.target is None:
            raise RequestError(
                f"`objective: {self.name}` needs `target`, the source column to predict; the dataset keeps "
                f"{', '.join(card.source_columns) or 'none'}."
            )
        if asked.target not in card.source_columns:
            raise RequestError(
                f"target {asked.target!r} is no source column that the dataset keeps; it keeps "
                f"{', '.join(card.source_columns) or 'none'}. Declare it with role 'key' and `keep_source_columns: "
                "true`, and ingest again."
            )
        given = [column.name for column in card.preparation.columns] if card.preparation else []
        if asked.target in given:
            raise RequestError(
                f"target {asked.target!r} is a feature as well, so the model would be told the answer; declare it with "
                "role 'key' and ingest again."
            )
        asked.refuse_weights(self.name)
        self.target = asked.target
        self._take(card, architecture, asked, 1, asked.target)

    def targets(self, column: pa.ChunkedArray) -> torch.Tensor:
        """Return numbers float32 [rows]."""
        check_numeric(self.columns[-1], column)
        return torch.from_numpy(column.cast(pa.float64()).to_numpy().astype("float32"))

    def counted(self, outputs: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
        """Return the sums of absolute and of squared errors."""
        error = (outputs[:, 0] - targets).double()
        return [error.abs().sum().cpu(), error.square().sum().cpu()]

    def metrics(self, totals: torch.Tensor) -> dict[str, float]:
        """See the base."""
        loss, absolute, squared, rows = totals.tolist()
        return {"loss": loss / rows, "mae": absolute / rows, "rmse": math.sqrt(squared / rows)}

    def signature(self) -> Signature:
        """See the base."""
        return regressing(self._inputs.specs)


def check_numeric(name: str, column: pa.ChunkedArray) -> None:
    """Refuse a column that is no target.

    Raises:
        RequestError: It holds no numbers, or one is missing or not finite.
    """
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise RequestError(f"target {name!r} holds {kind}, and a regression predicts numbers; choose another column.")
    if column.null_count:
        raise RequestError(
            f"target {name!r} is missing in {column.null_count} rows; set `missing: drop` in the dataset's `rules`, "
            "filter such rows out, or impute them, and ingest again."
        )
    if pa.types.is_floating(kind) and not math.isfinite(float(column.cast(pa.float64()).to_numpy().sum())):
        raise RequestError(f"target {name!r} holds a value that is not finite; filter such rows out and ingest again.")


class SquaredError(Regression):
    """The mean squared error."""

    name = "mse"

    def __init__(self, card: DatasetCard, architecture: Architecture, asked: Asked = NOTHING) -> None:
        super().__init__(card, architecture, asked)
        asked.refuse_others(self.name)

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See the base."""
        return functional.mse_loss(outputs[:, 0], target)


class AbsoluteError(SquaredError):
    """The mean absolute error."""

    name = "mae"

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See the base."""
        return functional.l1_loss(outputs[:, 0], target)


class Huber(Regression):
    """Squared up to `delta`, then linear: P. J. Huber, "Robust estimation of a location parameter" (1964)."""

    name = "huber"

    def __init__(self, card: DatasetCard, architecture: Architecture, asked: Asked = NOTHING) -> None:
        super().__init__(card, architecture, asked)
        asked.refuse_others(self.name, "delta")
        self._delta = asked.number("delta", 1.0, 1e-12, 1e12)

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See the base."""
        return functional.huber_loss(outputs[:, 0], target, delta=self._delta)
