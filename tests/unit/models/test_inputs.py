"""Rows of named columns: batch, row by row and from JSON, always the same features."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.models.answers import signature_of
from lightmill.models.inputs import TabularInputs, input_specs
from lightmill.models.preparation.applying import Preparation
from lightmill.records.fitted import (
    FittedImpute,
    FittedOneHot,
    FittedPreparation,
    FittedStandardize,
    InputColumn,
    TabularPreparation,
)
from lightmill.records.preparation import Features
from lightmill.records.signature import TensorSpec

FITTED = FittedPreparation(
    steps=(
        FittedImpute(columns=("age",), values=(40.0,)),
        FittedStandardize(columns=("age",), mean=(40.0,), scale=(10.0,)),
        FittedOneHot(columns=("land",), categories=(("DE", "FR"),), unknown="other"),
        Features(columns=("age", "land", "count")),
    )
)
RECORD = TabularPreparation(
    columns=(
        InputColumn(name="age", dtype="float64"),
        InputColumn(name="land", dtype="string"),
        InputColumn(name="count", dtype="int16"),
    ),
    fitted=FITTED,
    width=5,
)
INPUTS = TabularInputs(RECORD)


def features(**values: list[Any]) -> list[list[float]]:
    return INPUTS.features(INPUTS.table(values)).tolist()


def test_columns_become_features() -> None:
    found = features(age=[50.0, None], land=["FR", "PL"], count=[3, -1])
    assert found == [[1.0, 0.0, 1.0, 0.0, 3.0], [0.0, 0.0, 0.0, 1.0, -1.0]]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.none() | st.floats(-1e6, 1e6), st.none() | st.sampled_from(["DE", "FR", "x"]), st.integers(-9, 9)),
        min_size=1,
        max_size=8,
    )
)
def test_a_batch_is_what_its_rows_are_one_by_one_and_what_ingest_prepares(rows: list[tuple[Any, ...]]) -> None:
    columns = dict(zip(("age", "land", "count"), map(list, zip(*rows, strict=True)), strict=True))
    batch = features(**columns)
    single = [features(age=[age], land=[land], count=[count])[0] for age, land, count in rows]
    again = TabularInputs(TabularPreparation.model_validate_json(RECORD.model_dump_json()))
    assert batch == single == again.features(again.table(columns)).tolist()
    sealed = Preparation(FITTED).apply(INPUTS.table(columns)).column("features").combine_chunks()
    assert np.array(batch, dtype=np.float32).tobytes() == sealed.storage.flatten().to_numpy().tobytes()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"age": [1.0], "land": ["DE"]}, "lacks 'count'"),
        ({"age": [1.0], "land": ["DE"], "count": [1], "x": [1]}, "unknown column 'x'"),
        ({"age": ["old"], "land": ["DE"], "count": [1]}, "'age'"),
        ({"age": [1.0], "land": [5], "count": [1]}, "'land'"),
        ({"age": [1.0], "land": ["DE"], "count": [1 << 20]}, "'count'"),
        ({"age": [1.0, 2.0], "land": ["DE"], "count": [1]}, "different numbers of rows"),
        ({"age": [1.0], "land": ["DE"], "count": [None]}, "'count'"),
    ],
)
def test_what_does_not_fit_is_refused_by_column(values: dict[str, list[Any]], named: str) -> None:
    with pytest.raises(RequestError, match=named):
        features(**values)


def test_every_dtype_has_an_input_and_is_read() -> None:
    kinds = {
        "bool": True,
        "uint8": 3,
        "int64": -5,
        "float32": 0.5,
        "string": "a",
        "date": "2026-01-02",
        "timestamp": "2026-01-02T03:04:05",
        "binary": base64.b64encode(b"\0\1").decode(),
        "list<int32>": [1, 2, 3],
    }
    columns = tuple(InputColumn(name=f"c{n}", dtype=dtype) for n, dtype in enumerate(kinds))
    tensor = InputColumn(name="t", dtype="tensor<float32>", shape=(2, 2))
    inputs = TabularInputs(TabularPreparation(columns=(*columns, tensor), fitted=FittedPreparation(), width=1))
    values = {f"c{n}": [value, None] for n, value in enumerate(kinds.values())}
    table = inputs.table({**values, "t": [[[1, 2], [3, 4]], None]})
    assert [column.null_count for column in table.columns] == [1] * len(table.columns)
    assert table.column("t").type == pa.list_(pa.float32(), 4)
    specs = input_specs(TabularPreparation(columns=(*columns, tensor), fitted=FittedPreparation(), width=1))
    assert [spec.datatype for spec in specs][:5] == ["BOOL", "UINT8", "INT64", "FP32", "BYTES"]
    assert specs[-2].shape == (-1, -1) and specs[-1].shape == (-1, 2, 2)
    with pytest.raises(RequestError, match="base64"):
        inputs.table({**values, "c7": ["&", None], "t": [None, None]})


def test_the_signature_of_columns_has_one_input_a_column() -> None:
    signature = signature_of(TensorSpec(name="features", datatype="FP32", shape=(5,)), 2, RECORD)
    assert [(spec.name, spec.datatype, spec.shape) for spec in signature.inputs] == [
        ("age", "FP64", (-1,)),
        ("land", "BYTES", (-1,)),
        ("count", "INT16", (-1,)),
    ]
