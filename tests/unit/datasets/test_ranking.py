"""Exact shares without all draws at hand, and the order of values in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.datasets import ordered
from lightmill.datasets.ordered import Ordered
from lightmill.datasets.ranking import DrawStats, draws
from lightmill.datasets.splitting import SplitStats, assigner
from lightmill.records.splitting import GroupedSplit, SequentialSplit, SplitRule, StratifiedSplit

QUIET = settings(deadline=None, max_examples=40)


@QUIET
@given(st.integers(0, 3000), st.integers(0, 2**62), st.floats(0.01, 0.99), st.lists(st.integers(1, 400), max_size=9))
def test_a_cut_has_exactly_so_many_draws_below_it_however_blocks_were_cut(
    rows: int, seed: int, share: float, sizes: list[int]
) -> None:
    draw = draws(np.arange(rows), seed)
    assert len(np.unique(draw)) == rows
    keys = np.arange(rows, dtype=np.uint64) % np.uint64(3)
    places = np.split(np.arange(rows), np.cumsum(sizes)[np.cumsum(sizes) < rows])
    found = DrawStats(shares=(share,), classes={})
    for place in places:
        found = found + DrawStats.of(keys[place], draw[place], (share,))
    for key in found.classes:
        mine = draw[keys == key]
        wanted = round(len(mine) * share)
        cut = found.cut(key, 0, wanted)
        assert (len(mine) if cut is None else int((mine < np.uint64(cut)).sum())) == wanted


def test_what_is_kept_of_draws_grows_with_the_root_of_the_rows() -> None:
    found = DrawStats(shares=(0.7, 0.8), classes={})
    for first in range(0, 1_000_000, 50_000):
        ids = np.arange(first, first + 50_000)
        found = found + DrawStats.of(np.zeros(50_000, dtype=np.uint64), draws(ids, 1), found.shares)
    kept = sum(len(window.near) for window in found.classes[0].windows)
    assert 0 < kept < 2 * 2 * 7 * 1000


@QUIET
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=300), st.integers(1, 7))
def test_the_order_of_values_is_that_of_all_rows(values: list[int], pieces: int) -> None:
    parts = [Ordered.of(np.array(part, dtype=np.int64)) for part in np.array_split(values, pieces)]
    whole = sum(parts[1:], parts[0])
    rising = sorted(values)
    assert whole.rows == len(values)
    assert [whole.after(rows) for rows in range(len(values) + 1)] == [*rising, None]


def test_of_many_values_places_are_known_nearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered, "POINTS_MAX", 1000)
    values = np.random.default_rng(0).permutation(20_000)
    whole = sum((Ordered.of(part) for part in np.array_split(values[1000:], 19)), Ordered.of(values[:1000]))
    assert whole.rows == 20_000 and len(whole.values) <= 1001
    assert all(abs(whole.after(rows) - rows) < 200 for rows in range(0, 20_000, 371))


@pytest.mark.parametrize(
    "spec", [StratifiedSplit(column="c", seed=4), GroupedSplit(column="c", seed=4), SequentialSplit(column="c")]
)
def test_a_rule_tells_the_same_when_it_has_been_stored(spec: StratifiedSplit | GroupedSplit | SequentialSplit) -> None:
    keys = draws(np.arange(5000) % 700, 9) if not isinstance(spec, SequentialSplit) else np.arange(5000) % 700
    ids = np.arange(5000)
    rule = SplitStats.of(spec, keys, ids).rule(spec)
    again = SplitRule.model_validate_json(rule.model_dump_json())
    assert again == rule
    assert (assigner(again)(keys, ids) == assigner(rule)(keys, ids)).all()
    later = assigner(rule)(keys + keys.dtype.type(1), ids + 5000)  # keys that were not seen
    assert set(later.tolist()) <= {0, 1, 2}
