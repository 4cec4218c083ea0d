"""The interface of objectives: from rows to a batch, from a batch to a loss, from counts to metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import torch
from torch import nn

from lightmill.records.assets import DatasetCard
from lightmill.records.signature import Architecture, Signature

Batch = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of one worker: the mean loss over `count` things, and what `Objective.add_up` needs beside."""

    loss: torch.Tensor
    count: torch.Tensor | int
    kept: Batch = ()


class Objective(ABC):
    """An objective of one dataset.

    Attributes:
        name: What the specification calls it.
        weighted: Whether equally many rows may count differently, so that workers must agree on the weight of a step.
        labelled: Whether the model tells classes apart by features; else it reads tokens.
        held_out: The metrics that are measured on the test split.
        columns: The columns of a prepared table that a batch is made of.
        architecture: The model's, with the sizes that the dataset decides.
    """

    name: ClassVar[str]
    weighted: ClassVar[bool] = False
    labelled: ClassVar[bool] = True
    held_out: ClassVar[tuple[str, ...]]
    columns: tuple[str, ...]
    architecture: Architecture

    @abstractmethod
    def __init__(self, card: DatasetCard, architecture: Architecture) -> None:
        """Look at what the dataset has, and what the specification says of the model.

        Raises:
            RequestError: The dataset lacks something, the architecture is of another kind, or it gives a size that the
                dataset does not have.
        """

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """The bytes of one row of a batch."""

    @abstractmethod
    def tensors(self, table: pa.Table) -> Batch:
        """Return prepared rows as tensors on the CPU, rows first.

        Raises:
            RequestError: A value does not fit the model.
        """

    def count(self, batch: Batch) -> torch.Tensor | int:
        """Return what the mean loss of a batch is over: by default its rows."""
        return len(batch[0])

    @abstractmethod
    def step(self, module: nn.Module, batch: Batch) -> Step:
        """Return the loss of a batch, which may have no rows: then it is 0, with gradients of 0."""

    @abstractmethod
    def add_up(self, steps: Sequence[Step]) -> torch.Tensor:
        """Return what `metrics` needs of some steps: float64, adds up over steps and workers; the loss comes first."""

    @abstractmethod
    def metrics(self, totals: torch.Tensor) -> dict[str, float]:
        """Return `loss` and the other metrics of summed steps."""

    def rates(self, totals: torch.Tensor, seconds: float) -> dict[str, float]:
        """Return what was done in a second; by default nothing beside steps."""
        return {}

    @abstractmethod
    def rows_together(self, batch_rows: int) -> int:
        """Return how many rows are evaluated at once."""

    @abstractmethod
    def signature(self) -> Signature:
        """Return the signature of a model that was trained so."""
