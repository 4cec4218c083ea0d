"""The interface of objectives: from rows to a batch, from a batch to a loss, from counts to metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import pyarrow as pa
import torch
from torch import nn

from lightmill.records.assets import DatasetCard
from lightmill.records.signature import Architecture, Signature
from lightmill.training.objectives.asked import Asked

NOTHING = Asked()
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
        measures: The names of what `metrics` returns.
        held_out: Those of them that are measured on the test split.
        task: What more metrics are computed for, see `scores`; None where there are no more.
        columns: The columns of a prepared table that a batch is made of.
        scores: The names of metrics that were asked for besides, see `scores`.
        architecture: The model's, with the sizes that the dataset decides.
        reads_tokens: Whether the model is given token ids; else features.
        classes: The classes that the model tells apart, if it does.
        target: The source column that is predicted in place of the label.
    """

    name: ClassVar[str]
    weighted: ClassVar[bool] = False
    measures: ClassVar[tuple[str, ...]]
    held_out: tuple[str, ...]
    task: ClassVar[Literal["classes", "numbers"] | None] = None
    reads_tokens: bool
    classes: tuple[str, ...] = ()
    target: str | None = None
    scores: tuple[str, ...] = ()
    columns: tuple[str, ...]
    architecture: Architecture

    @abstractmethod
    def __init__(self, card: DatasetCard, architecture: Architecture, asked: Asked = NOTHING) -> None:
        """Look at what the dataset has, and what the specification says of the model and of the objective.

        Raises:
            RequestError: The dataset lacks something, the architecture is of another kind, it gives a size that the
                dataset does not have, or the objective cannot do what is asked.
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
