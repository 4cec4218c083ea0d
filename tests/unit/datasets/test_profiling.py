"""Profiles: right, independent of blocks, in bounded memory, and silent on personal values."""

from __future__ import annotations

import base64
import functools
import io
import math
import operator
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lightmill.datasets.expectations import Judge
from lightmill.datasets.profiling import SAMPLE_MAX, Profiler
from lightmill.datasets.sketches import VALUES_MAX, Counts, Distinct, Numbers, Pairs, Sample, smallest_rows
from lightmill.datasets.thumbnails import BYTES_MAX, encoded_uri, pixels_uri
from lightmill.records.profile import ProfileRecord
from lightmill.records.quality import ColumnRule, RulesSpec

QUIET = settings(deadline=None, max_examples=30)
COLUMNS = (
    ColumnRule(name="x", dtype="float64", max_nulls=1.0, finite=False),
    ColumnRule(name="n", dtype="int64", max_nulls=1.0),
    ColumnRule(name="kind", dtype="string", role="label", max_nulls=1.0),
    ColumnRule(name="words", dtype="string", role="text", max_nulls=1.0),
    ColumnRule(name="mail", dtype="string", role="ignore", tags=("email",)),
    ColumnRule(name="pay", dtype="float64", role="ignore", tags=("personal",)),
    ColumnRule(name="flags", dtype="list<int8>", max_nulls=1.0),
)
ROW = st.fixed_dictionaries(
    {
        "x": st.one_of(st.none(), st.floats(-100, 100), st.just(math.inf)),
        "n": st.one_of(st.none(), st.integers(-3, 3)),
        "kind": st.one_of(st.none(), st.sampled_from(["a", "b"])),
        "words": st.one_of(st.none(), st.text(max_size=5)),
        "mail": st.one_of(st.none(), st.sampled_from(["secret@x.org", "hidden@y.org"])),
        "pay": st.one_of(st.none(), st.just(98765987659876.0)),
        "flags": st.one_of(st.none(), st.lists(st.integers(0, 1), max_size=3)),
    }
)


def profile(rows: list[dict[str, Any]], sizes: list[int] | None = None, order: Any = None) -> ProfileRecord:
    judge, profiler = Judge(COLUMNS, RulesSpec()), Profiler(COLUMNS)
    source = pa.table({name: [row[name] for row in rows] for name in (column.name for column in COLUMNS)})
    parts, first = [], 0
    for size in [*(sizes or []), len(rows)]:
        found = judge.judge(source.slice(first, size), first)
        parts.append((profiler.of(found.table, found.row_id, (found.row_id % 3).astype(np.int8)), found.tally))
        first = min(first + size, len(rows))
    if order is not None:
        order.shuffle(parts)
    part = functools.reduce(operator.add, [one for one, _ in parts])
    return profiler.finish(part, "people", functools.reduce(operator.add, [tally for _, tally in parts]))


def rounded(value: Any) -> Any:
    """Floats to nine digits: their sums depend on the order of blocks in the last ones."""
    if isinstance(value, float):
        return 0.0 if abs(value) < 1e-6 else float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


@QUIET
@given(st.lists(ROW, max_size=30), st.lists(st.integers(0, 9), max_size=5), st.randoms(use_true_random=False))
def test_blocks_and_their_order_do_not_matter(rows: list[dict[str, Any]], sizes: list[int], order: Any) -> None:
    whole, parts = profile(rows), profile(rows, sizes, order)
    assert rounded(parts.model_dump(exclude={"correlations"})) == rounded(whole.model_dump(exclude={"correlations"}))
    assert ProfileRecord.model_validate_json(whole.model_dump_json()) == whole


@QUIET
@given(st.lists(ROW, min_size=1, max_size=30))
def test_statistics_are_those_of_the_values(rows: list[dict[str, Any]]) -> None:
    found = {column.name: column for column in profile(rows).columns}
    for name, column in found.items():
        there = [row[name] for row in rows if row[name] is not None]
        assert (column.count, column.nulls) == (len(there), len(rows) - len(there))
    finite = [row["x"] for row in rows if row["x"] is not None and math.isfinite(row["x"])]
    numbers = found["x"].numbers
    assert numbers is not None
    assert numbers.count == len(finite)
    assert numbers.infinite == sum(row["x"] == math.inf for row in rows)
    if finite:
        assert (numbers.minimum, numbers.maximum) == (min(finite), max(finite))
        assert numbers.mean == pytest.approx(np.mean(finite), abs=1e-9)
        assert numbers.std == pytest.approx(np.std(finite), abs=1e-6)
        assert numbers.histogram is not None
        assert sum(numbers.histogram.counts) == numbers.histogram.sampled == len(finite)
    kinds = [row["kind"] for row in rows if row["kind"] is not None]
    assert {value.value: value.count for value in found["kind"].top} == {kind: kinds.count(kind) for kind in set(kinds)}
    assert (found["kind"].distinct, found["kind"].distinct_exact) == (len(set(kinds)), True)
    lengths = [len(row["flags"]) for row in rows if row["flags"] is not None]
    assert found["flags"].lengths is not None
    assert found["flags"].lengths.maximum == (max(lengths) if lengths else None)


@QUIET
@given(st.lists(ROW, min_size=1, max_size=20))
def test_columns_with_tags_are_counted_and_nothing_of_them_is_shown(rows: list[dict[str, Any]]) -> None:
    found = profile(rows)
    for column in found.columns[4:6]:
        assert column.hidden
        assert (column.distinct, column.numbers, column.lengths, column.top) == (None, None, None, ())
    text = found.model_dump_json()
    assert not any(secret in text for secret in ("secret", "hidden@", "98765987659876"))


def test_texts_show_their_lengths_and_no_values() -> None:
    found = profile([{"x": 1.0, "n": 1, "kind": "a", "words": "long story", "mail": None, "pay": 1.0, "flags": []}])
    words = found.columns[3]
    assert words.top == ()
    assert words.lengths is not None
    assert words.lengths.mean == 10
    assert found.splits == {"train": 1, "validation": 0, "test": 0}


def test_classes_are_counted_in_each_split_and_numbers_are_in_order() -> None:
    columns = (ColumnRule(name="y", dtype="int64", role="label"),)
    table = pa.table({"y": [10, 2, 2, 10, 2]})
    profiler = Profiler(columns)
    part = profiler.of(table, np.arange(5), np.array([0, 0, 1, 2, 2], dtype=np.int8))
    classes = profiler.finish(part, "d").classes
    assert classes is not None
    assert (classes.classes, classes.counts) == (("2", "10"), ((1, 1, 1), (1, 0, 1)))
    alone = profiler.finish(profiler.of(table, np.arange(5)), "d").classes
    assert alone is not None
    assert (alone.splits, alone.counts) == (("all",), ((3,), (2,)))


def test_what_was_rejected_and_clipped_is_told() -> None:
    columns = (ColumnRule(name="n", dtype="int64", minimum=0),)
    found = Judge(columns, RulesSpec(out_of_range="clip", type="drop")).judge(pa.table({"n": ["-1", "x", "3"]}))
    kept = found.verdict == 0
    profiler = Profiler(columns)
    record = profiler.finish(profiler.of(found.kept, found.row_id[kept]), "d", found.tally)
    assert (record.rows_in, record.rows) == (3, 2)
    assert record.rejected == {"value of another type": 1}
    assert record.clipped == {"n": 1}


def test_empty_tables_and_columns_of_nulls_have_profiles() -> None:
    row = dict.fromkeys(column.name for column in COLUMNS)
    for count in (0, 3):
        found = profile([row] * count)
        assert found.rows == count
        assert all(column.count == 0 and column.nulls == count for column in found.columns)


def test_a_profile_of_many_rows_is_small_and_its_picture_is_of_a_sample() -> None:
    rows = 200_000
    numbers = np.random.default_rng(0).normal(size=rows)
    ids = [f"id {number % 150_000}" for number in range(rows)]
    columns = (ColumnRule(name="x", dtype="float64"), ColumnRule(name="id", dtype="string"))
    profiler = Profiler(columns)
    half = rows // 2
    table = pa.table({"x": numbers, "id": ids})
    parts = [profiler.of(table.slice(at, half), np.arange(at, at + half)) for at in (half, 0)]
    assert len(pickle.dumps(parts[0])) < 1 << 20
    found = profiler.finish(pickle.loads(pickle.dumps(parts[0])) + parts[1], "d").columns
    x = found[0].numbers
    assert x is not None and x.histogram is not None
    assert x.histogram.sampled == SAMPLE_MAX
    assert x.quantiles[2] == pytest.approx(0, abs=0.05)
    assert x.std == pytest.approx(numbers.std())
    assert not found[1].distinct_exact
    assert found[1].distinct == pytest.approx(150_000, rel=0.06)
    assert all(value.at_least and value.count > 1 for value in found[1].top)


def test_a_cell_of_ten_megabytes_does_not_reach_the_profile() -> None:
    columns = (ColumnRule(name="s", dtype="string"),)
    table = pa.table({"s": ["x" * (10 << 20), "y", "y"]})
    profiler = Profiler(columns)
    part = profiler.of(table, np.arange(3))
    assert len(pickle.dumps(part)) < 20_000
    found = profiler.finish(part, "d").columns[0]
    assert found.lengths is not None
    assert found.lengths.maximum == 10 << 20
    assert [(value.value, value.count, value.at_least) for value in found.top] == [("y", 2, True)]


# -- sketches -----------------------------------------------------------------


@QUIET
@given(st.lists(st.floats(allow_nan=True), max_size=30), st.integers(0, 30))
def test_moments_add_up_even_of_huge_numbers(values: list[float], cut: int) -> None:
    array = np.array(values, dtype=np.float64)
    whole, parts = Numbers.of(array), Numbers.of(array[:cut]) + Numbers.of(array[cut:])
    assert (parts.count, parts.infinite, parts.minimum, parts.maximum) == (
        whole.count,
        whole.infinite,
        whole.minimum,
        whole.maximum,
    )
    assert math.isfinite(parts.mean)
    size = max(abs(whole.minimum), abs(whole.maximum)) if whole.count else 1.0
    assert abs(parts.mean / 2 - whole.mean / 2) <= 1e-9 * size + 1e-300


def test_the_variance_of_numbers_far_from_zero_is_right() -> None:
    values = 1e9 + np.random.default_rng(0).normal(size=10_000)
    parts = [Numbers.of(part) for part in np.array_split(values, 7)]
    assert functools.reduce(operator.add, parts).std == pytest.approx(values.std(), rel=1e-6)


@pytest.mark.parametrize("count", [0, 1, 100, 3000, 12_000, 60_000])
def test_distinct_values_are_estimated_over_the_whole_range(count: int) -> None:
    errors = []
    for seed in range(12):
        values = pa.array(np.arange(count) * 7 + seed * 1_000_003)
        found = (Distinct.of(values[: count // 2]) + Distinct.of(values[count // 3 :])).estimate()
        errors.append((found - count) / max(count, 1))
    assert abs(np.mean(errors)) < 0.015
    assert np.max(np.abs(errors)) < 0.065


def test_values_are_counted_exactly_up_to_the_limit_in_any_order() -> None:
    values = pa.array([str(number) for number in range(VALUES_MAX + 1)] + [None])
    assert Counts.of(values[:VALUES_MAX]).counts == {str(number): 1 for number in range(VALUES_MAX)}
    first, second = Counts.of(values[:600]), Counts.of(values[500:])
    assert (first + second).counts is None
    assert (second + first).counts is None
    assert Counts.of(values).counts is None
    assert (Counts.of(values[:5]) + Counts.of(values[:3])).counts == {"0": 2, "1": 2, "2": 2, "3": 1, "4": 1}


def test_a_sample_is_that_of_the_set_of_rows() -> None:
    table, ids = pa.table({"n": np.arange(1000)}), np.arange(1000)
    whole = Sample.of(table, ids, 50)
    shuffled = np.random.default_rng(0).permutation(1000)
    parts = [Sample.of(table.take(pa.array(part)), part, 50) for part in np.array_split(shuffled, 6)]
    found = functools.reduce(operator.add, parts)
    assert found.table.column("n").to_pylist() == whole.table.column("n").to_pylist()
    assert len(set(found.table.column("n").to_pylist())) == 50
    known = parts[0]
    for part in np.array_split(shuffled, 6)[1:]:
        places = smallest_rows(part, 50, known)
        known = known + Sample.chosen(table.take(pa.array(part[places])), part[places], 50)
    assert known.table.equals(whole.table)
    assert len(smallest_rows(np.arange(1000), 50, whole)) < 50


@QUIET
@given(
    st.lists(
        st.tuples(*[st.one_of(st.just(math.nan), st.integers(-9, 9).map(float), st.just(math.inf))] * 3),
        min_size=3,
        max_size=25,
    ),
    st.integers(0, 25),
)
def test_correlations_are_those_of_rows_that_have_both(rows: list[tuple[float, ...]], cut: int) -> None:
    columns = [np.array(column) + 1000.0 for column in zip(*rows, strict=True)]
    parts = Pairs.of([column[cut:] for column in columns]) + Pairs.of([column[:cut] for column in columns])
    found = parts.correlations()
    for a in range(3):
        for b in range(3):
            both = np.isfinite(columns[a]) & np.isfinite(columns[b])
            x, y = columns[a][both], columns[b][both]
            if len(x) < 2 or x.std() == 0 or y.std() == 0:
                assert found[a][b] is None
            else:
                assert found[a][b] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)


# -- pictures -----------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"


def test_small_pictures_of_known_kinds_become_thumbnails() -> None:
    assert encoded_uri(PNG) == "data:image/png;base64,iVBORw0KGgpyZXN0"
    assert str(encoded_uri(b"\xff\xd8\xffrest")).startswith("data:image/jpeg;")
    assert str(encoded_uri(b"RIFF1234WEBPrest")).startswith("data:image/webp;")
    assert encoded_uri(b"<svg onload=alert(1)>") is None
    assert encoded_uri(PNG + b"x" * BYTES_MAX) is None
    assert str(pixels_uri(np.zeros((2, 3), np.uint8))).startswith("data:image/png;base64,")
    assert str(pixels_uri(np.zeros((2, 3, 3), np.uint8))).startswith("data:image/png;base64,")
    assert pixels_uri(np.zeros((2, 3, 2), np.uint8)) is None
    assert pixels_uri(np.zeros((1000, 1000), np.uint8)) is None


def test_pixels_are_a_png_that_a_decoder_reads() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    data = base64.b64decode(str(pixels_uri(pixels)).partition(",")[2])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)


def test_image_columns_give_a_few_pictures_and_personal_ones_none() -> None:
    columns = (
        ColumnRule(name="scan", dtype="binary", role="image"),
        ColumnRule(name="face", dtype="binary", role="image", tags=("personal",)),
        ColumnRule(name="grey", dtype="tensor<uint8>", shape=(2, 2), role="image"),
    )
    table = pa.table(
        {
            "scan": [PNG, b"x" * (BYTES_MAX + 1), None],
            "face": [PNG] * 3,
            "grey": pa.array([[0, 1, 2, 3]] * 3, type=pa.list_(pa.uint8(), 4)),
        }
    )
    profiler = Profiler(columns)
    found = profiler.finish(profiler.of(table, np.arange(3)), "d").thumbnails
    assert sorted((thumb.column, thumb.row_id) for thumb in found) == [
        ("grey", 0),
        ("grey", 1),
        ("grey", 2),
        ("scan", 0),
    ]
