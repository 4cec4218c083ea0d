"""Answers held against each other: by tolerance, by class, by form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lightmill.records.traffic import CompareSpec
from lightmill.serving.tensors import DATATYPES, InferResponse, Tensor
from lightmill.serving.traffic.comparison import WHOLE, Difference, compare

SPEC = CompareSpec(rtol=0.01, atol=0.001)


def answer(**outputs: Any) -> InferResponse:
    tensors = tuple(
        Tensor(name=name, datatype=DATATYPES.get(array.dtype, "BYTES"), array=array) for name, array in outputs.items()
    )
    return InferResponse(model="m", version="1", outputs=tensors)


def found(stable: Any, other: Any, spec: CompareSpec = SPEC) -> list[tuple[str, int]]:
    return [(one.kind, one.row) for one in compare(answer(y=stable), answer(y=other), spec)]


def f32(*rows: Any) -> Any:
    return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize(
    ("stable", "other", "expected"),
    [
        (f32(1.0, 2.0), f32(1.0, 2.0), []),
        (f32(1.0, 2.0), f32(1.009, 2.03), [("value", 1)]),
        (f32(0.0), f32(0.0009), []),
        (f32(np.nan, np.inf), f32(np.nan, np.inf), []),
        (f32(np.nan, 1.0), f32(1.0, np.inf), [("value", 0), ("value", 1)]),
        (f32([0.6, 0.4], [0.9, 0.1]), f32([0.4, 0.6], [0.8, 0.2]), [("class", 0), ("value", 1)]),
        (f32([0.5, 0.5]), f32([0.5, 0.50001]), []),
        (np.array([1, 2, 3]), np.array([1, 5, 3]), [("class", 1)]),
        (np.array([b"a", "b"], dtype=object), np.array([b"a", "c"], dtype=object), [("value", 1)]),
        (f32(1.0, 2.0), f32(1.0), [("shape", WHOLE)]),
        (f32(1.0), np.array([1.0]), [("datatype", WHOLE)]),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), []),
    ],
)
def test_what_differs(stable: Any, other: Any, expected: list[tuple[str, int]]) -> None:
    named = [("value", row) if stable.dtype.kind == "O" else (kind, row) for kind, row in found(stable, other)]
    assert named == expected


def test_how_far_apart_and_what_is_missing() -> None:
    (one,) = compare(answer(y=f32([1.0, 0.0])), answer(y=f32([1.5, 0.25])), SPEC)
    assert one == Difference(output="y", kind="value", row=0, absolute=0.5, relative=0.5)
    assert compare(answer(y=f32(1.0), z=f32(1.0)), answer(y=f32(1.0), w=f32(2.0)), SPEC) == [
        Difference(output="z", kind="missing")
    ]
    (infinite,) = compare(answer(y=f32(1.0)), answer(y=f32(np.inf)), SPEC)
    assert infinite.absolute is None and infinite.relative is None


def test_probabilities_may_move_as_long_as_the_class_stays() -> None:
    spec = CompareSpec(classes_only=True)
    assert found(f32([0.6, 0.4], [0.6, 0.4]), f32([0.9, 0.1], [0.4, 0.6]), spec) == [("class", 1)]


FLOATS = arrays.arrays(np.float32, (3, 4), elements=st.floats(-1e3, 1e3, width=32))


@given(one=FLOATS, row=st.integers(0, 2), column=st.integers(0, 3))
def test_an_answer_equals_itself_and_a_change_is_found_in_its_row(one: Any, row: int, column: int) -> None:
    assert found(one, one.copy()) == []
    other = one.copy()
    other[row, column] += 100 + abs(other[row, column])
    assert [place for _, place in found(one, other)] == [row]
    assert [place for _, place in found(other, one)] == [row]
