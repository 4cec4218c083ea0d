from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.models.preparation import DuplicateSearch, Preparation, signature
from lightmill.models.preparation.digests import row_digests
from lightmill.models.preparation.minhash import rows_per_band, signatures
from lightmill.records.preparation import Deduplicate
from tests.unit.models.preparation.examples import TABLES, fitted, prepare

VALUES = st.one_of(st.none(), st.sampled_from(["a", "b", "ab", ""]))


@given(st.lists(st.tuples(VALUES, VALUES, st.sampled_from([None, 0.0, -0.0, 1.5, float("nan")])), max_size=15))
@settings(max_examples=25, deadline=None)
def test_exact_duplicates_are_those_that_python_finds(rows: list[tuple[Any, Any, Any]]) -> None:
    ids = np.random.default_rng(len(rows)).permutation(len(rows))
    table = pa.table(
        {
            "row_id": pa.array(ids, pa.int64()),
            "p": pa.array([p for p, _, _ in rows], pa.string()),
            "q": pa.array([q for _, q, _ in rows], pa.string()),
            "x": pa.array([x for _, _, x in rows], pa.float64()),
        }
    )
    first: dict[Any, int] = {}
    for place in np.argsort(ids):
        p, q, x = rows[place]
        first.setdefault((p, q, None if x is None or x != x else x + 0.0), int(ids[place]))
    kept = prepare(table, {"step": "deduplicate", "columns": ["p", "q", "x"]})
    assert sorted(kept.column("row_id").to_pylist()) == sorted(first.values())


@given(TABLES, st.data())
@settings(max_examples=10, deadline=None)
def test_digests_do_not_depend_on_how_a_table_is_cut(table: pa.Table, data: st.DataObject) -> None:
    columns = ["x", "n", "kind", "flag", "text", "image"]
    whole = row_digests(table, columns)
    cut = data.draw(st.integers(0, len(table)))
    parts = [row_digests(part, columns) for part in (table.slice(0, cut), table.slice(cut))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    np.testing.assert_array_equal(row_digests(chunked, columns), whole)


def test_digests_tell_columns_and_nulls_apart() -> None:
    table = pa.table({"p": ["a", "b", None, "", None], "q": ["b", "a", "", None, None]})
    assert len(np.unique(row_digests(table, ["p", "q"]), axis=0)) == 5
    many = pa.table({"i": range(100_000), "j": [0] * 100_000})
    assert len(np.unique(row_digests(many, ["i", "j"])[:, 0])) == 100_000
    lists = pa.table({"l": [[1, 2], [1], [1, 2], None]})
    assert len(np.unique(row_digests(lists, ["l"]), axis=0)) == 3


def sentence(rng: np.random.Generator, words: int) -> list[str]:
    return ["".join(rng.choice(list("abcdefghijklmnop"), size=6)) for _ in range(words)]


def test_near_duplicates_are_found_and_others_kept() -> None:
    rng = np.random.default_rng(11)
    originals = [sentence(rng, 40) for _ in range(60)]
    changed = [[*words[:20], "changed", *words[21:]] for words in originals[:25]]
    spelled = [[word.upper() for word in words] for words in originals[25:40]]
    texts = [" ".join(words) for words in [*originals, *changed]] + ["  ".join(words) for words in spelled]
    table = pa.table({"row_id": range(len(texts)), "text": texts})
    step = {"step": "deduplicate", "columns": ["text"], "how": "near_text", "threshold": 0.8}
    found = fitted(table, step)
    assert found.dropped[0].tolist() == list(range(60, 100))
    assert found.record().steps[0].duplicates == 40
    assert len(Preparation(found.record(), dropped=found.dropped).apply(table)) == 60
    assert len(Preparation(found.record()).apply(table)) == 100


def test_signatures_estimate_the_similarity_of_sets_of_shingles() -> None:
    rng = np.random.default_rng(4)
    left = "".join(rng.choice(list("abcdefgh"), size=400))
    right = left[:300] + "".join(rng.choice(list("ijklmnop"), size=100))
    step = Deduplicate(columns=("t",), how="near_text", hashes=1024)
    found, known = signatures(pa.array([left, right, None, "", "  "]), step)
    assert known.tolist() == [True, True, False, False, False]
    sets = [{text[i : i + 5] for i in range(len(text) - 4)} for text in (left, right)]
    jaccard = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    assert (found[0] == found[1]).mean() == pytest.approx(jaccard, abs=3 * 0.5 / 32)


def test_a_signature_does_not_depend_on_the_rows_around_it() -> None:
    texts = ["a", "ab", "abcdef", "x" * 300_000, "", "light mill", None, "ñandú 😀 " * 9]
    step = Deduplicate(columns=("t",), how="near_text", hashes=16)
    whole, _ = signatures(pa.array(texts), step)
    for place, text in enumerate(texts):
        one, _ = signatures(pa.array([text], pa.string()), step)
        np.testing.assert_array_equal(one[0], whole[place])


def test_groups_are_connected_and_keep_their_smallest_row_id() -> None:
    texts = ["the light mill turns in the sun"] * 4 + [None, None, "", ""]
    table = pa.table({"row_id": [9, 3, 7, 5, 1, 2, 4, 6], "text": pa.array(texts, pa.string())})
    kept = prepare(table, {"step": "deduplicate", "columns": ["text"], "how": "near_text"})
    assert kept.column("row_id").to_pylist() == [3, 1, 2, 4, 6]


@pytest.mark.parametrize(("threshold", "width"), [(0.5, 3), (0.8, 6), (1.0, 128)])
def test_bands_are_as_wide_as_recall_allows(threshold: float, width: int) -> None:
    step = Deduplicate(columns=("t",), how="near_text", threshold=threshold)
    assert rows_per_band(step) == width
    assert 1 - (1 - threshold**width) ** (128 // width) >= 0.99


def test_row_ids_are_needed_and_unique() -> None:
    step = Deduplicate(columns=("x",))
    with pytest.raises(RequestError, match="no column 'row_id'"):
        signature(pa.table({"x": [1]}), step)
    search = DuplicateSearch(step)
    search.add(pa.table({"row_id": [1, 1], "x": [1, 2]}))
    with pytest.raises(RequestError, match="two rows have the row_id 1"):
        search.duplicates()
    with pytest.raises(RequestError, match="which is not compared"):
        signature(pa.table({"row_id": [1], "x": [{"a": 1}]}), step)
    with pytest.raises(ValueError, match="one text column"):
        Deduplicate(columns=("a", "b"), how="near_text")


def test_an_empty_search_finds_nothing() -> None:
    assert DuplicateSearch(Deduplicate(columns=("x",))).duplicates().tolist() == []
    empty = pa.table({"row_id": pa.array([], pa.int64()), "text": pa.array([], pa.string())})
    near = {"step": "deduplicate", "columns": ["text"], "how": "near_text"}
    assert len(prepare(empty, near)) == 0
