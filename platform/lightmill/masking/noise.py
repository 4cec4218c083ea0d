"""Laplace noise that a rerun repeats: drawn from a keyed function of the row's id and value.

Values are rounded to a grid g, the largest power of two up to scale / 1024 (and at least 1 for whole numbers),
and a whole multiple of g is added: the difference of two geometric variables, the two-sided geometric mechanism
(Ghosh, Roughgarden and Sundararajan 2009), which is Laplace noise on the grid. So no low bits of floating point
give the value away (Mironov 2012; Google, Secure Noise Generation, 2020). Rounding can add g to the distance of two
values, so the scale is (sensitivity + g) / epsilon where values are not already on the grid.

Uniform numbers come from AES-256 of (row id, bits of the value): one block each, all different, under a key of
their own for each column and each setting of the rule. Noise for another epsilon is therefore independent, and two
outputs cannot be solved for the value.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from lightmill.errors import RequestError
from lightmill.records.masking import NoiseRule

_GRID_STEPS = 1024
_MOST_STEPS = 2.0**52


def add_noise(
    values: npt.NDArray[np.float64], row_ids: npt.NDArray[np.int64], key: bytes, rule: NoiseRule, *, whole: bool
) -> npt.NDArray[np.float64]:
    """Return float64 [rows] with noise; NaN stays NaN, and an infinity counts as a bound or stays.

    Args:
        values: float64 [rows]. Whole numbers beyond 2^53 lose their last digits.
        row_ids: int64 [rows], unique in the dataset; a repeated pair of id and value repeats its noise.
        key: 32 bytes for this column and this rule.
        rule: Epsilon, sensitivity and bounds.
        whole: Whether the result is to be whole numbers.

    Raises:
        RequestError: The values are too large for noise as small as the rule asks for.
    """
    if rule.minimum is not None and rule.maximum is not None:
        values = np.clip(values, rule.minimum, rule.maximum)
    grid = grid_of(rule, whole=whole)
    scale = scale_of(rule, whole=whole)
    steps = np.rint(values / grid)
    largest = float(np.max(np.abs(steps), where=np.isfinite(steps), initial=0.0))
    if largest > _MOST_STEPS:
        raise RequestError(
            f"noise of scale {scale:g} is too fine for values as large as these: float64 cannot hold both. Use a "
            "smaller epsilon, a larger sensitivity, or minimum and maximum."
        )
    noisy = (steps + _geometric_difference(_uniform(key, row_ids, values), grid / scale)) * grid
    if rule.minimum is not None and rule.maximum is not None:
        low, high = (math.ceil(rule.minimum), math.floor(rule.maximum)) if whole else (rule.minimum, rule.maximum)
        noisy = np.clip(noisy, low, high)
    return noisy


def grid_of(rule: NoiseRule, *, whole: bool) -> float:
    """Return the distance of two results that are next to each other."""
    grid = 2.0 ** math.floor(math.log2(rule.reach() / rule.epsilon / _GRID_STEPS))
    return max(1.0, grid) if whole else grid


def scale_of(rule: NoiseRule, *, whole: bool) -> float:
    """Return the scale b of the Laplace distribution, whose standard deviation is b times the root of 2."""
    grid = grid_of(rule, whole=whole)
    on_grid = whole and grid == 1.0
    return (math.ceil(rule.reach()) if on_grid else rule.reach() + grid) / rule.epsilon


def _geometric_difference(uniform: npt.NDArray[np.float64], rate: float) -> npt.NDArray[np.float64]:
    """Return float64 [rows] of whole numbers k with probability in proportion to exp(-rate * |k|).

    uniform: float64 [rows, 2] in (0, 1]; each makes a geometric variable by inversion.
    """
    first, second = np.floor(np.log(uniform) / -rate).T
    return first - second


def _uniform(key: bytes, row_ids: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return float64 [rows, 2] in (0, 1], multiples of 2^-53."""
    blocks = np.empty((len(row_ids), 2), dtype=np.uint64)
    blocks[:, 0] = row_ids.astype(np.int64).view(np.uint64)
    blocks[:, 1] = (values + 0.0).view(np.uint64)
    # Each block is a distinct input of a keyed permutation used as a random function; nothing is encrypted here,
    # so the mode's weakness, that equal blocks look equal, is what a rerun needs.
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    random = np.frombuffer(cipher.update(blocks.tobytes()) + cipher.finalize(), dtype="<u8").reshape(-1, 2)
    return ((random >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53
