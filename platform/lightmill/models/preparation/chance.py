"""Random numbers that depend on a key alone: the same for a row in whatever block, order or process it is drawn.

The generator is SplitMix64 as a hash (G. L. Steele, D. Lea and C. H. Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014) of seed, stream, row id and number. Good for augmentation, not for secrets.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mixed(words: Words) -> Words:
    """Return each word mixed by the finalizer of SplitMix64, a bijection in which every bit counts."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def stream_of(*key: int | str) -> np.uint64:
    """Return a word that stands for a key such as (seed, epoch, column, place)."""
    text = "\x1f".join(map(str, key)).encode()
    return np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), dtype=np.uint64)[0]


def uniforms(stream: np.uint64, row_ids: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float64]:
    """Return uniform numbers in [0, 1), float64 [rows, count]."""
    rows = mixed(row_ids.astype(np.uint64) * _GOLDEN + stream)
    numbers = mixed(np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return (mixed(rows[:, None] ^ numbers) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normals(stream: np.uint64, row_ids: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float64]:
    """Return standard normal numbers, float64 [rows, count], by the transform of Box and Muller (1958)."""
    both = uniforms(stream, row_ids, 2 * count)
    radius = np.sqrt(-2.0 * np.log1p(-both[:, :count]))
    return radius * np.cos(2.0 * np.pi * both[:, count:])
