"""Fitted preparation, applied the same at ingest, in training data, in batch and at serving. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightmill.errors import RequestError
from lightmill.records.signature import Preprocessing, Standardize

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Sums over rows, from which a standardization is fitted; they add up over blocks.

    `total` and `squares` are float64 [features].
    """

    count: int
    total: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]

    @classmethod
    def of(cls, features: npt.NDArray[np.float64]) -> Moments:
        """Return the moments of rows, float64 [rows, features]."""
        return cls(count=len(features), total=features.sum(axis=0), squares=np.square(features).sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            count=self.count + other.count,
            total=self.total + other.total,
            squares=self.squares + other.squares,
        )

    def mean_and_std(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the mean and the population standard deviation of each feature."""
        mean = self.total / self.count
        variance = np.maximum(self.squares / self.count - np.square(mean), 0.0)
        return mean, np.sqrt(variance)


def fit_standardize(moments: Moments) -> Standardize:
    """Return the standardization fitted to `moments`; a feature that never varies keeps scale 1.

    Raises:
        RequestError: There are no rows to fit on.
    """
    if not moments.count:
        raise RequestError("The training split has no rows to fit a standardization on; enlarge split.train.")
    mean, std = moments.mean_and_std()
    scale = np.where(std > 1e-12, std, 1.0)
    return Standardize(
        mean=tuple(float(x) for x in mean.astype(np.float32)),
        scale=tuple(float(x) for x in scale.astype(np.float32)),
    )


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
