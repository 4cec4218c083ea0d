"""The cross-entropy of a label among classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.nn import functional

from lightmill.datasets.columns import FEATURES, LABEL
from lightmill.datasets.reading import feature_rows
from lightmill.errors import RequestError
from lightmill.models.answers import signature_of
from lightmill.models.architectures import OF_TOKENS
from lightmill.records.assets import DatasetCard
from lightmill.records.signature import Architecture, Signature
from lightmill.training.objectives.port import Batch, Objective, Step

EVALUATED_ROWS = 8192


class CrossEntropy(Objective):
    """Batches are features float32 [batch, features] and labels int64 [batch]; metrics are loss and accuracy."""

    name = "cross_entropy"
    held_out = ("accuracy",)
    columns = (FEATURES, LABEL)

    def __init__(self, card: DatasetCard, architecture: Architecture) -> None:
        if not card.classes:
            hint = " It has token ids: set `objective: causal_lm`." if card.tokens else ""
            raise RequestError(
                "The dataset has no label to train on; declare a column with role 'label' and ingest again." + hint
            )
        self._width = math.prod(card.features.shape)
        if not self._width:
            raise RequestError("The dataset has no features; declare columns with role 'feature' and ingest again.")
        if architecture.name in OF_TOKENS:
            raise RequestError(
                f"Architecture {architecture.name!r} takes token ids; with `objective: cross_entropy` use one of "
                "features, such as 'mlp'."
            )
        self._card = card
        self.architecture = architecture.with_sizes(inputs=self._width, classes=len(card.classes))

    @property
    def row_bytes(self) -> int:
        """See the base."""
        return self._width * torch.float32.itemsize + torch.int64.itemsize

    def tensors(self, table: pa.Table) -> Batch:
        """See the base."""
        label = table.column(LABEL).to_numpy().astype(np.int64)
        return torch.from_numpy(feature_rows(table)), torch.from_numpy(label)

    def step(self, module: nn.Module, batch: Batch) -> Step:
        """See the base."""
        features, label = batch
        logits = module(features)
        loss = functional.cross_entropy(logits, label) if len(label) else logits.sum() * 0.0
        return Step(loss=loss, count=len(label), kept=(logits.detach(), label))

    def add_up(self, steps: Sequence[Step]) -> torch.Tensor:
        """Return the summed loss, the hits and the rows."""
        rows = torch.tensor([int(step.count) for step in steps], dtype=torch.float64)
        logits, labels = (torch.cat([step.kept[place] for step in steps]) for place in (0, 1))
        hits = (logits.argmax(dim=1) == labels).sum()
        loss = (torch.stack([step.loss.detach() for step in steps]).double().cpu() * rows).sum()
        return torch.stack([loss, hits.double().cpu(), rows.sum()])

    def metrics(self, totals: torch.Tensor) -> dict[str, float]:
        """See the base."""
        loss, hits, rows = totals.tolist()
        return {"loss": loss / rows, "accuracy": hits / rows}

    def rows_together(self, batch_rows: int) -> int:
        """See the base."""
        return max(batch_rows, EVALUATED_ROWS)

    def signature(self) -> Signature:
        """See the base."""
        return signature_of(self._card.features, len(self._card.classes), self._card.preparation)
