"""Which rows repeat others, over the whole of a dataset: what blocks report adds up in any order.

A row costs 25 bytes (exact) or 4 bytes for each hash and 9 more (near_text: 521 with 128 hashes) in the driver.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.columns import row_ids, texts
from lightmill.models.preparation.digests import row_digests
from lightmill.models.preparation.minhash import alike, signatures
from lightmill.records.fitted import FittedDeduplicate
from lightmill.records.preparation import Deduplicate

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signatures:
    """What a block says of its rows.

    `row_id` int64 [rows]; `words` uint64 [rows, 2] (exact) or uint32 [rows, hashes] (near_text); `known` bool [rows]:
    whether the row is compared at all.
    """

    row_id: Ids
    words: npt.NDArray[np.unsignedinteger]
    known: npt.NDArray[np.bool_]


def signature(table: pa.Table, step: Deduplicate) -> Signatures:
    """Return the signatures of a table's rows. Rows without text are alike to none.

    Raises:
        RequestError: A column or `row_id` is missing, or of a type that is not compared.
    """
    ids = row_ids(table, "deduplicate")
    if step.how == "exact":
        words = row_digests(table, step.columns)
        return Signatures(row_id=ids, words=words, known=np.ones(len(ids), dtype=np.bool_))
    words, known = signatures(texts(table, step.columns[0], "deduplicate"), step)
    return Signatures(row_id=ids, words=words, known=known)


class DuplicateSearch:
    """Collects the signatures of blocks, and finds the rows to leave out."""

    def __init__(self, step: Deduplicate) -> None:
        self._step = step
        self._parts: list[Signatures] = []
        self._found: Ids | None = None

    def add(self, table: pa.Table) -> None:
        """Take the rows of a table; see `signature` for errors."""
        self._parts.append(signature(table, self._step))
        self._found = None

    def __add__(self, other: DuplicateSearch) -> DuplicateSearch:
        both = DuplicateSearch(self._step)
        both._parts = [*self._parts, *other._parts]
        return both

    def duplicates(self) -> Ids:
        """Return the ids of the rows to leave out, int64, rising: all of a group but its smallest.

        Raises:
            RequestError: Two rows have one id.
        """
        if self._found is None:
            self._found = self._search()
        return self._found

    def _search(self) -> Ids:
        if not self._parts:
            return np.empty(0, dtype=np.int64)
        ids = np.concatenate([part.row_id for part in self._parts])
        words = np.concatenate([part.words for part in self._parts])
        known = np.concatenate([part.known for part in self._parts])
        order = np.argsort(ids, kind="stable")
        ids, words, known = ids[order], words[order], known[order]
        again = np.flatnonzero(ids[1:] == ids[:-1])
        if len(again):
            raise RequestError(f"Step 'deduplicate': two rows have the row_id {ids[again[0]]}; ids must be unique.")
        ids, words = ids[known], words[known]
        return ids[_repeats(words) if self._step.how == "exact" else _followers(alike(words, self._step), len(ids))]

    def finish(self) -> FittedDeduplicate:
        """Return the fitted step; see `duplicates` for errors."""
        return FittedDeduplicate(declared=self._step, duplicates=len(self.duplicates()))


def without(table: pa.Table, dropped: Ids) -> pa.Table:
    """Return the table without the rows of these ids (rising).

    Raises:
        RequestError: The table has no `row_id`.
    """
    ids = row_ids(table, "deduplicate")
    if not len(dropped):
        return table
    place = np.minimum(np.searchsorted(dropped, ids), len(dropped) - 1)
    return table.filter(pa.array(dropped[place] != ids))


def _repeats(words: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.bool_]:
    """Return bool [rows]: whether an earlier row has the same words."""
    order = np.lexsort((np.arange(len(words)), words[:, 1], words[:, 0]))
    repeated = np.zeros(len(words), dtype=np.bool_)
    repeated[order[1:]] = (words[order[1:]] == words[order[:-1]]).all(axis=1)
    return repeated


def _followers(pairs: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.bool_]:
    """Return bool [rows]: whether a row is in a connected group with an earlier one."""
    label = np.arange(count)
    while True:
        before = label.copy()
        low = np.minimum(label[pairs[:, 0]], label[pairs[:, 1]])
        np.minimum.at(label, pairs[:, 0], low)
        np.minimum.at(label, pairs[:, 1], low)
        label = label[label]
        if np.array_equal(label, before):
            return label != np.arange(count)
