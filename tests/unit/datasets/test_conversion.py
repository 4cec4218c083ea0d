"""Values into their declared dtype: exact, or marked."""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.datasets.conversion import arrow_type, convert
from lightmill.records.quality import FLOATS, INTEGERS, SCALARS, ColumnRule

BAD = "did not convert"
UTC = datetime.UTC


def converted(values: Any, dtype: str, kind: pa.DataType | None = None, **more: Any) -> list[Any]:
    rule = ColumnRule(name="c", dtype=dtype, **more)
    array = values if isinstance(values, pa.Array) else pa.array(values, type=kind)
    out, failed = convert(array, rule)
    assert out.type == arrow_type(rule)
    assert len(out) == len(failed) == len(array)
    assert not (failed & out.is_valid().to_numpy(zero_copy_only=False)).any()
    return [BAD if wrong else value for value, wrong in zip(out.to_pylist(), failed, strict=True)]


def test_texts_become_integers_or_are_marked() -> None:
    texts = ["1", " -2 ", "+3", "007", "", "NA", None, "1.0", "1e3", "0x1F", "1_0", "٣", "x", "-0", "--1"]
    assert converted(texts, "int64") == [1, -2, 3, 7, None, None, None, *[BAD] * 6, 0, BAD]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_fit_up_to_their_limits_and_not_beyond(dtype: str) -> None:
    info = np.iinfo(dtype)
    low, high = int(info.min), int(info.max)
    assert converted([str(low), str(high), str(low - 1), str(high + 1), "9" * 5000], dtype) == [
        low,
        high,
        BAD,
        BAD,
        BAD,
    ]
    wide = [n for n in (low - 1, low, high, high + 1) if -(2**63) <= n < 2**63]
    assert converted(wide, dtype, pa.int64()) == [n if low <= n <= high else BAD for n in wide]
    assert converted(["0" * 40 + "1", "-" + "0" * 40], dtype) == [1, 0]


def test_texts_become_floats_or_are_marked() -> None:
    texts = [
        "1.5",
        " .5",
        "1.",
        "-1e-400",
        "nan",
        "NaN",
        "?",
        "inf",
        "-Infinity",
        "1e400",
        "-1e999",
        "1,5",
        "0x10",
        "1d5",
    ]
    found = converted(texts, "float64")
    assert found == [1.5, 0.5, 1.0, 0.0, None, None, None, math.inf, -math.inf, *[BAD] * 5]
    assert converted(["-nan", "infinity", "+2"], "float64") == [None, math.inf, 2.0]


def test_float32_rounds_but_makes_no_infinity() -> None:
    found = converted([0.1, 1e39, math.inf, math.nan, 3.4e38], "float32")
    assert found == [float(np.float32(0.1)), BAD, math.inf, None, float(np.float32(3.4e38))]
    assert converted(["1e39", "inf", "1e400"], "float32") == [BAD, math.inf, BAD]


def test_floats_become_integers_when_they_are_integers() -> None:
    values = [1.0, -0.0, 1.5, math.inf, math.nan, 2.0**63, -(2.0**63), 1e300]
    assert converted(values, "int64") == [1, 0, BAD, BAD, None, BAD, -(2**63), BAD]
    assert converted([255.0, 256.0, -1.0], "uint8", pa.float32()) == [255, BAD, BAD]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**54), 2**54)), max_size=20))
def test_an_integer_becomes_a_float_only_when_nothing_is_lost(values: list[int]) -> None:
    expected = [float(value) if int(float(value)) == value else BAD for value in values]
    assert converted(values, "float64", pa.int64()) == expected
    narrow = [float(value) if int(np.float32(value)) == value else BAD for value in values]
    assert converted(values, "float32", pa.int64()) == narrow


@settings(deadline=None, max_examples=30)
@given(st.lists(st.one_of(st.none(), st.integers(-(2**70), 2**70), st.text(max_size=6)), max_size=20))
def test_integer_texts_convert_as_python_s_do(values: list[int | str | None]) -> None:
    for value in values:
        text = None if value is None else str(value)
        found = converted([text], "int64", pa.string())[0]
        if isinstance(value, int):
            assert found == (value if -(2**63) <= value < 2**63 else BAD)
        elif found is not None and found != BAD:
            assert int(str(text).strip()) == found


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(allow_nan=False), max_size=20))
def test_float_texts_come_back_as_they_were(values: list[float]) -> None:
    assert converted([repr(value) for value in values], "float64", pa.string()) == values


def test_truth_values() -> None:
    assert converted(["true", "FALSE", "1", "0", "yes", "2", "", None], "bool") == [
        *[True, False] * 2,
        BAD,
        BAD,
        None,
        None,
    ]
    assert converted([0, 1, 2, None], "bool") == [False, True, BAD, None]
    assert converted([0.0, 1.0, 0.5, math.nan], "bool") == [False, True, BAD, None]
    assert converted([True, None], "bool") == [True, None]
    assert converted([True, None], "int8") == [1, None]
    assert converted([datetime.date(2020, 1, 1)], "bool") == [BAD]


def test_times_are_read_in_utc_and_numbers_have_no_unit() -> None:
    texts = [
        "2020-01-01",
        "2020-01-01 10:00",
        "2020-01-01T10:00:00.5Z",
        "2020-01-01T00:00+02:00",
        "2020-02-30",
        "now",
        "5",
        "",
    ]
    assert converted(texts, "timestamp") == [
        datetime.datetime(2020, 1, 1, tzinfo=UTC),
        datetime.datetime(2020, 1, 1, 10, tzinfo=UTC),
        datetime.datetime(2020, 1, 1, 10, 0, 0, 500_000, tzinfo=UTC),
        datetime.datetime(2019, 12, 31, 22, tzinfo=UTC),
        BAD,
        BAD,
        BAD,
        None,
    ]
    assert converted([1, 2], "timestamp") == [BAD, BAD]
    assert converted(pa.array([1_000, 1_001], pa.timestamp("ns")), "timestamp") == [
        datetime.datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        BAD,
    ]
    assert converted([datetime.date(2020, 1, 1)], "timestamp") == [datetime.datetime(2020, 1, 1, tzinfo=UTC)]


def test_dates() -> None:
    assert converted(["2020-02-29", "2021-02-29", "2020-1-1", None], "date") == [
        datetime.date(2020, 2, 29),
        BAD,
        BAD,
        None,
    ]
    midnight, noon = datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, 12)
    assert converted([midnight, noon], "date") == [datetime.date(2020, 1, 1), BAD]


def test_texts_and_bytes() -> None:
    assert converted([1, None], "string") == ["1", None]
    assert converted([b"abc", b"\xff", None], "string") == ["abc", BAD, None]
    assert converted(["ä", None], "binary") == ["ä".encode(), None]
    assert converted([" kept as it is ", "NA"], "string") == [" kept as it is ", "NA"]
    assert converted(pa.array(["a", "b"]).dictionary_encode(), "string") == ["a", "b"]
    assert converted(["a"], "string", pa.large_string()) == ["a"]
    assert converted(["a"], "string", pa.string_view()) == ["a"]
    assert converted([decimal.Decimal("1.50")], "float64") == [1.5]
    assert converted([[1]], "string") == [BAD]
    assert converted([{"a": 1}], "int64") == [BAD]


def test_lists() -> None:
    assert converted([[1, 2], [], None, [1, None]], "list<int32>") == [[1, 2], [], None, None]
    assert converted([["1"], ["x"], ["nan"]], "list<float64>") == [[1.0], BAD, None]
    assert converted(["[1, 2]", "[]", "{}", "[", "[[1]]", "[1.5]", None, ""], "list<int64>") == [
        [1, 2],
        [],
        *[BAD] * 4,
        None,
        None,
    ]
    assert converted(["a"], "list<string>") == [BAD]
    assert converted(['["a", "b c"]'], "list<string>") == [["a", "b c"]]
    assert converted([1, None], "list<int64>") == [BAD, None]


def test_tensors_are_flat_and_have_their_shape() -> None:
    shape = {"shape": (2, 2)}
    nested = [[[1, 2], [3, 4]], [[1, 2, 3], [4]], [[1, 2]], None, [[1, 2], [3, None]], [[1, 2], [3, 4], [5, 6]]]
    assert converted(nested, "tensor<float32>", **shape) == [[1, 2, 3, 4], BAD, BAD, None, None, BAD]
    assert converted([[1, 2, 3, 4], [1, 2]], "tensor<uint8>", **shape) == [[1, 2, 3, 4], BAD]
    assert converted(["[[1,2],[3,4]]", "[1,2,3,4]", "[[1],[2,3,4]]", "[]"], "tensor<uint8>", **shape) == [
        [1, 2, 3, 4],
        [1, 2, 3, 4],
        BAD,
        BAD,
    ]
    assert converted([None, None], "tensor<float32>", pa.list_(pa.float32()), **shape) == [None, None]
    fixed = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(8, dtype=np.float32).reshape(2, 2, 2))
    assert converted(fixed, "tensor<float32>", **shape) == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("dtype", SCALARS)
@pytest.mark.parametrize("kind", [pa.null(), pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.list_(pa.int64())])
def test_empty_and_all_null_columns_convert_to_every_type(dtype: str, kind: pa.DataType) -> None:
    assert converted(pa.nulls(0, kind), dtype) == []
    assert converted(pa.nulls(3, kind), dtype) == [None] * 3
    assert converted(pa.nulls(3, kind), f"list<{dtype}>") == [None] * 3
    assert converted(pa.nulls(3, kind), f"tensor<{dtype}>", shape=(3,)) == [None] * 3


ANY = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))),
    st.lists(st.one_of(st.none(), st.floats())),
    st.lists(st.one_of(st.none(), st.text())),
    st.lists(st.one_of(st.none(), st.binary())),
    st.lists(st.one_of(st.none(), st.booleans())),
    st.lists(st.one_of(st.none(), st.dates())),
    st.lists(st.one_of(st.none(), st.datetimes())),
    st.lists(st.one_of(st.none(), st.lists(st.floats(), max_size=4))),
)


@settings(deadline=None, max_examples=30)
@given(ANY, st.sampled_from([*SCALARS, "list<int64>", "list<string>", "tensor<float32>"]), st.integers(0, 5))
def test_anything_converts_or_is_marked_whatever_the_chunks(values: list[Any], dtype: str, cut: int) -> None:
    more = {"shape": (2,)} if dtype.startswith("tensor") else {}
    array = pa.array(values)
    whole = converted(array, dtype, **more)
    parts = converted(array[:cut], dtype, **more) + converted(array[cut:], dtype, **more)
    assert repr(whole) == repr(parts)
    assert dtype in FLOATS or not any(isinstance(value, float) and math.isnan(value) for value in whole)


def test_sliced_arrays_keep_their_rows() -> None:
    lists = pa.array([[1], [2, 3], None, [4]])[1:]
    assert converted(lists, "list<float32>") == [[2, 3], None, [4]]
    fixed = pa.array([[1, 2], None, [3, 4]], type=pa.list_(pa.int64(), 2))[1:]
    assert converted(fixed, "tensor<int64>", shape=(2,)) == [None, [3, 4]]
