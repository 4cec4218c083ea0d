"""Fitted preparation, applied the same at ingest, in training data, in batch and at serving. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightmill.errors import RequestError
from lightmill.records.signature import Preprocessing, Standardize

Features = npt.NDArray[np.float32]
CONSTANT_BELOW = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Mean and squared deviations of rows, from which a standardization is fitted; they add up over blocks.

    `mean` and `deviations` (sums of squared distances from the mean) are float64 [features]. Adding follows
    T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979: sums of squares would cancel for features far from zero.
    """

    count: int
    mean: npt.NDArray[np.float64]
    deviations: npt.NDArray[np.float64]

    @classmethod
    def of(cls, features: npt.NDArray[np.float64]) -> Moments:
        """Return the moments of rows, float64 [rows, features]."""
        if not len(features):
            zero = np.zeros(features.shape[1])
            return cls(count=0, mean=zero, deviations=zero)
        mean = features.mean(axis=0)
        return cls(count=len(features), mean=mean, deviations=np.square(features - mean).sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + apart * (other.count / count),
            deviations=self.deviations + other.deviations + np.square(apart) * (self.count * other.count / count),
        )

    def mean_and_std(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the mean and the population standard deviation of each feature."""
        return self.mean, np.sqrt(self.deviations / max(self.count, 1))


def fit_standardize(moments: Moments) -> Standardize:
    """Return the standardization fitted to `moments`; a feature that never varies keeps scale 1.

    Raises:
        RequestError: There are no rows to fit on.
    """
    if not moments.count:
        raise RequestError("The training split has no rows to fit a standardization on; enlarge split.train.")
    mean, std = moments.mean_and_std()
    scale = np.where(std > CONSTANT_BELOW * np.maximum(np.abs(mean), 1.0), std, 1.0)
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
