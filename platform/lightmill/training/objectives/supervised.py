"""What objectives share whose rows each have something to predict: a label, or a number."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from lightmill.datasets.columns import LABEL
from lightmill.errors import RequestError
from lightmill.models.answers import classifying
from lightmill.models.architectures import CLASSIFYING
from lightmill.records.assets import DatasetCard
from lightmill.records.signature import Architecture, Signature
from lightmill.training.objectives.asked import Asked
from lightmill.training.objectives.inputs import inputs_of
from lightmill.training.objectives.port import NOTHING, Batch, Objective, Step

EVALUATED_ROWS = 8192
EVALUATED_TOKENS = 65_536
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From outputs [rows, outputs] and what is to be predicted [rows] to the loss of each row, or their mean."""


class Supervised(Objective):
    """Batches are what the model is given and, last, what it is to predict, one for each row.

    What is counted keeps outputs float32 [rows, outputs] and targets [rows].
    """

    def _take(self, card: DatasetCard, architecture: Architecture, asked: Asked, outputs: int, predicted: str) -> None:
        """Take over what a batch is made of.

        Raises:
            RequestError: The dataset lacks it, or the architecture is of another kind.
        """
        if architecture.name not in CLASSIFYING and architecture.entrypoint is None:
            raise RequestError(
                f"Architecture {architecture.name!r} takes token ids and predicts the next ones; with `objective: "
                f"{self.name}` use 'encoder' for token ids, or one of features, such as 'mlp'."
            )
        self._inputs = inputs_of(card, architecture, self.name)
        self.reads_tokens = self._inputs.reads_tokens
        self.columns = (*self._inputs.columns, predicted)
        self.architecture = self._inputs.sized(architecture.with_sizes(classes=outputs))
        self.scores = asked.metrics
        self.held_out = (*type(self).held_out, *asked.metrics)

    @property
    def row_bytes(self) -> int:
        """See the base."""
        return self._inputs.row_bytes + torch.int64.itemsize

    def tensors(self, table: pa.Table) -> Batch:
        """See the base."""
        return (*self._inputs.tensors(table), self.targets(table.column(self.columns[-1])))

    @abstractmethod
    def targets(self, column: pa.ChunkedArray) -> torch.Tensor:
        """Return what is to be predicted [rows]; RequestError if a value does not fit."""

    @abstractmethod
    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of some rows; there is at least one."""

    def step(self, module: nn.Module, batch: Batch) -> Step:
        """See the base."""
        *given, target = batch
        outputs = module(*given).float()
        loss = self.loss(outputs, target) if len(target) else outputs.sum() * 0.0
        return Step(loss=loss, count=len(target), kept=(outputs.detach(), target))

    def add_up(self, steps: Sequence[Step]) -> torch.Tensor:
        """Return the summed loss, what `counted` gives, and the rows."""
        rows = torch.tensor([int(step.count) for step in steps], dtype=torch.float64)
        outputs, targets = (torch.cat([step.kept[place] for step in steps]) for place in (0, 1))
        loss = (torch.stack([step.loss.detach() for step in steps]).double().cpu() * rows).sum()
        return torch.stack([loss, *self.counted(outputs, targets), rows.sum()])

    @abstractmethod
    def counted(self, outputs: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
        """Return sums over rows that metrics need, as float64 scalars on the CPU."""

    def rows_together(self, batch_rows: int) -> int:
        """See the base."""
        most = EVALUATED_ROWS
        if self.reads_tokens:
            most = max(1, EVALUATED_TOKENS * 2 * torch.int64.itemsize // self._inputs.row_bytes)
        return max(batch_rows, most)


class OfClasses(Supervised):
    """Predicts the label among the dataset's classes; metrics are loss and accuracy."""

    measures = ("loss", "accuracy")
    held_out = ("accuracy",)
    task = "classes"

    def __init__(self, card: DatasetCard, architecture: Architecture, asked: Asked = NOTHING) -> None:
        if not card.classes:
            hint = " It has token ids: set `objective: causal_lm`." if card.tokens else ""
            raise RequestError(
                "The dataset has no label to train on; declare a column with role 'label' and ingest again." + hint
            )
        asked.refuse_target(self.name)
        self.classes = card.classes
        self._weights = class_weights(card, asked)
        self._take(card, architecture, asked, self.outputs(), LABEL)

    def outputs(self) -> int:
        """Return the outputs of the model."""
        return len(self.classes)

    def targets(self, column: pa.ChunkedArray) -> torch.Tensor:
        """Return class numbers int64 [rows]."""
        return torch.from_numpy(column.to_numpy().astype(np.int64))

    def predicted(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the likeliest class of each row."""
        return outputs.argmax(dim=1)

    def counted(self, outputs: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
        """Return the hits."""
        return [(self.predicted(outputs) == targets).sum().double().cpu()]

    def metrics(self, totals: torch.Tensor) -> dict[str, float]:
        """See the base."""
        loss, hits, rows = totals.tolist()
        return {"loss": loss / rows, "accuracy": hits / rows}

    def weights_on(self, device: torch.device) -> torch.Tensor | None:
        """Return the weight of each class where tensors live, None where all are 1."""
        if self._weights is not None and self._weights.device != device:
            self._weights = self._weights.to(device)
        return self._weights

    def signature(self) -> Signature:
        """See the base."""
        return classifying(self._inputs.specs, len(self.classes))


def class_weights(card: DatasetCard, asked: Asked) -> torch.Tensor | None:
    """Return the weight of each class float32 [classes], or None if there are none.

    `balanced` gives rows / (classes x rows of the class), so that the weights of all rows have the mean 1 and every
    class counts equally: G. King and L. Zeng, "Logistic regression in rare events data" (2001).

    Raises:
        RequestError: There are more or fewer than classes, one is negative, or no counts are known.
    """
    if asked.class_weights is None:
        return None
    if asked.class_weights == "balanced":
        counts = [card.profile.classes.get(name, 0) for name in card.classes]
        if 0 in counts:
            raise RequestError(
                f"`class_weights: balanced` needs rows of every class, and there are none of "
                f"{card.classes[counts.index(0)]!r}; take it out of the label's `values`, or give the weights."
            )
        return torch.tensor([sum(counts) / (len(counts) * count) for count in counts])
    if len(asked.class_weights) != len(card.classes) or min(asked.class_weights) < 0:
        raise RequestError(
            f"class_weights {list(asked.class_weights)} must be {len(card.classes)} numbers from 0 on, one for each "
            f"of the classes {', '.join(card.classes)}."
        )
    return torch.tensor(asked.class_weights)
