"""Fitted preparation, applied the same at ingest, in training data, in batch and at serving. NumPy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightmill.records.signature import Preprocessing

Features = npt.NDArray[np.float32]


class Preparation:
    """A `Preprocessing` record made ready to apply."""

    def __init__(self, record: Preprocessing) -> None:
        self._steps = [
            (np.asarray(step.mean, dtype=np.float32), np.asarray(step.scale, dtype=np.float32)) for step in record.steps
        ]

    def apply(self, features: Features) -> Features:
        """Return the prepared features: float32 [rows, features], a new array unless there are no steps."""
        for mean, scale in self._steps:
            features = (features - mean) / scale
        return features
