"""What is planned: a specification with the dataset, the objective and the model that it names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lightmill.datasets.reading import take_rows
from lightmill.records.specs import TrainSpec
from lightmill.registry import OpenVersion, RegistryLocation
from lightmill.training.feed import CACHE_BYTES, GATHER_ROWS
from lightmill.training.lanes import Lanes, lane_count
from lightmill.training.objectives import Batch, Objective
from lightmill.training.rows import Rows
from lightmill.training.starting import first_module
from lightmill.training.stream import WINDOW_ROWS

SAMPLE_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One training run, and how to build its model."""

    spec: TrainSpec
    dataset: OpenVersion
    location: RegistryLocation
    objective: Objective
    rows: Rows
    allow_python: bool = False

    def build(self) -> nn.Module:
        """Return the model with what is frozen and its adapters, but with weights of its own."""
        return first_module(self.spec, self.objective.architecture, allow_python=self.allow_python)

    def shapes(self) -> nn.Module:
        """Return the model without memory."""
        with torch.device("meta"):
            return self.build()

    def sample(self) -> Batch:
        """Return the first rows of the training split as a batch."""
        places = np.arange(min(SAMPLE_ROWS, self.count("train")), dtype=np.int64)
        table = take_rows(self.dataset, self.location, "train", places, self.rows.columns)
        return self.rows.batch(table, epoch=0)

    def count(self, split: str) -> int:
        """Return the rows of a split."""
        card = self.dataset.manifest.dataset
        return 0 if card is None else card.profile.splits.get(split, 0)

    @property
    def epoch_steps(self) -> int:
        """The steps of an epoch, if rows are dealt evenly."""
        lanes = lane_count(self.spec.batch_size, self.spec.worker_range.max)
        count = self.count("train")
        return Lanes([count // lanes + (lane < count % lanes) for lane in range(lanes)], self.spec.batch_size).steps

    def rows_bytes(self, data_world: int) -> int:
        """Return the bytes of the rows that one worker of so many keeps, and of those that are next."""
        each = self.rows.row_bytes
        train = -(-self.count("train") // data_world)
        validation = -(-self.count("validation") // data_world)
        kept = WINDOW_ROWS if train * each > CACHE_BYTES else train
        return (kept + min(train, GATHER_ROWS) + validation) * each
