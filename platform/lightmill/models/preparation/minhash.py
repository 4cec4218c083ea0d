"""MinHash signatures of text, and pairs of alike rows by banding.

The share of equal places of two signatures estimates the Jaccard similarity of the sets of shingles (A. Broder, "On the
resemblance and containment of documents", 1997), with a standard error of at most 0.5 / sqrt(hashes). Rows that share a
band of a signature are compared (P. Indyk and R. Motwani, 1998). In each band a row is compared with the first row of
its bucket and with the one before it, so a bucket costs linear time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.models.preparation.chance import Words, mixed, stream_of
from lightmill.models.preparation.kernels import pc
from lightmill.records.preparation import Deduplicate

RECALL = 0.99
_SLICE_CHARACTERS = 1 << 16

Signature = npt.NDArray[np.uint32]
Pairs = npt.NDArray[np.int64]


def signatures(text: pa.Array, step: Deduplicate) -> tuple[Signature, npt.NDArray[np.bool_]]:
    """Return the signatures, uint32 [rows, hashes], and bool [rows]: whether the row has text at all.

    Text is compared after NFKC, in lower case, with white space as single blanks.
    """
    text = pc.utf8_lower(pc.utf8_normalize(text, form="NFKC"))
    text = pc.utf8_trim(pc.replace_substring_regex(text, pattern=r"[\s\p{Z}]+", replacement=" "), characters=" ")
    lengths = np.asarray(pc.fill_null(pc.utf8_length(text), 0).to_numpy(zero_copy_only=False)).astype(np.int64)
    known = lengths > 0
    found = np.zeros((len(text), step.hashes), dtype=np.uint32)
    rows = np.flatnonzero(known)
    values = text.take(pa.array(rows))
    for first, last in _slices(np.maximum(lengths[rows], step.shingle)):
        found[rows[first:last]] = _minima(values[first:last].to_pylist(), step)
    return found, known


def _slices(lengths: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cut rows into runs of about 65,536 characters, so that hashes stay in the cache."""
    if not len(lengths):
        return []
    group = (np.cumsum(lengths) - lengths) // _SLICE_CHARACTERS
    starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    return list(zip(starts.tolist(), [*starts[1:].tolist(), len(lengths)], strict=True))


def _minima(values: list[str], step: Deduplicate) -> Signature:
    size = step.shingle
    padded = [value.ljust(size, "\0") for value in values]
    points = np.frombuffer("".join(padded).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    windows = np.zeros(len(points) - size + 1, dtype=np.uint64)
    for place in range(size):
        windows = windows * np.uint64(0x100000001B3) + points[place : place + len(windows)] + np.uint64(1)
    ends = np.cumsum([len(value) for value in padded])
    # The windows that begin in the last size - 1 characters of a row reach into the next one.
    inside = np.ones(len(points), dtype=np.bool_)
    for back in range(1, size):
        inside[ends - back] = False
    shingles = mixed(windows[inside[: len(windows)]])
    counts = np.array([len(value) - size + 1 for value in padded])
    starts = np.cumsum(counts) - counts
    factors = mixed(np.arange(2 * step.hashes, dtype=np.uint64) + stream_of("minhash", step.seed))
    found = np.empty((len(values), step.hashes), dtype=np.uint32)
    for i in range(step.hashes):
        hashed = (shingles * (factors[2 * i] | np.uint64(1)) + factors[2 * i + 1]) >> np.uint64(32)
        found[:, i] = np.minimum.reduceat(hashed.astype(np.uint32), starts)
    return found


def rows_per_band(step: Deduplicate) -> int:
    """Return the widest band with which rows at the threshold still meet with a probability of 0.99."""
    widths = range(1, step.hashes + 1)
    fit = [r for r in widths if 1 - (1 - step.threshold**r) ** (step.hashes // r) >= RECALL]
    return max(fit, default=1)


def alike(found: Signature, step: Deduplicate) -> Pairs:
    """Return pairs [pairs, 2] of places whose signatures agree at least as `threshold` says."""
    width = rows_per_band(step)
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, step.hashes - width + 1, width):
        pairs.append(_bucket_pairs(_folded(found[:, start : start + width])))
    unique = np.unique(np.concatenate(pairs), axis=0)
    agree = np.empty(len(unique), dtype=np.bool_)
    for start in range(0, len(unique), 4096):
        part = unique[start : start + 4096]
        equal = (found[part[:, 0]] == found[part[:, 1]]).mean(axis=1)
        agree[start : start + 4096] = equal >= step.threshold
    return unique[agree]


def _folded(band: Signature) -> Words:
    words = np.zeros(len(band), dtype=np.uint64)
    for place in range(band.shape[1]):
        words = mixed(words * np.uint64(0x100000001B3) + band[:, place].astype(np.uint64))
    return words


def _bucket_pairs(keys: Words) -> Pairs:
    order = np.argsort(keys, kind="stable")
    same = np.concatenate([[False], keys[order][1:] == keys[order][:-1]]) if len(keys) else np.empty(0, dtype=np.bool_)
    members = np.flatnonzero(same)
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(keys))))[members]
    return np.concatenate(
        [np.stack([order[first], order[members]], axis=1), np.stack([order[members - 1], order[members]], axis=1)]
    )
