from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lightmill.errors import JobError, RequestError
from lightmill.models.inputs import TabularInputs
from lightmill.models.preparation import Preparation, Resources
from lightmill.models.preparation.functions import check_functions
from lightmill.records.fitted import FittedPreparation, InputColumn, TabularPreparation
from lightmill.records.preparation import Features, MadeColumn, Python

TABLE = pa.table({"row_id": [1, 2], "y": [1.0, 2.0], "other": ["a", "b"]})
MAKES = (MadeColumn(name="twice", dtype="float64"),)


def doubled(table: pa.Table) -> pa.Table:
    return pa.table({"twice": pc.multiply(table.column("y"), 2)})


def measured(table: pa.Table) -> pa.Table:
    """Two columns in: how many words, the number as text, and both as a tensor."""
    words = np.array([len((text or "").split()) for text in table.column("text").to_pylist()], dtype=np.int64)
    y = table.column("y").to_numpy().astype(np.float32)
    pair = pa.array(np.stack([words.astype(np.float32), y], axis=1).reshape(-1))
    made = {
        "pair": pa.FixedSizeListArray.from_arrays(pair, 2),
        "words": words,
        "y": table.column("y").cast(pa.string()),
    }
    return pa.table(made)


def shortened(table: pa.Table) -> pa.Table:
    return doubled(table).slice(1)


def numbered(table: pa.Table) -> pa.Table:
    return doubled(table).append_column("row_id", pa.array([5, 6]))


def rounded(table: pa.Table) -> pa.Table:
    return doubled(table).cast(pa.schema([("twice", pa.int64())]))


def empty(table: pa.Table) -> pa.Table:
    return pa.table({"thrice": [1.0, 2.0]})


def no_table(table: pa.Table) -> list[int]:
    return [1, 2]


def failing(table: pa.Table) -> pa.Table:
    raise KeyError("y2")


def step(function: str, columns: tuple[str, ...] = ("y",), makes: tuple[MadeColumn, ...] = MAKES) -> Python:
    return Python(function=function, columns=columns, makes=makes)


def run(name: str, **changes: Any) -> pa.Table:
    record = FittedPreparation(steps=(step(f"{__name__}:{name}", **changes),))
    return Preparation(record, resources=Resources(allow_python=True)).apply(TABLE)


def test_a_function_sees_its_columns_and_gives_what_it_declares() -> None:
    found = run("doubled")
    assert found.column("twice").to_pylist() == [2.0, 4.0]
    assert found.column_names == ["row_id", "y", "other", "twice"]


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("shortened", RequestError, "returned 1 rows for 2"),
        ("numbered", RequestError, "row_id"),
        ("rounded", RequestError, "'twice' as int64; `makes` declares double"),
        ("empty", RequestError, "'thrice'"),
        ("no_table", RequestError, "not list"),
        ("failing", JobError, "KeyError"),
        ("absent", RequestError, "has no function 'absent'"),
        ("TABLE", RequestError, "not a function"),
    ],
)
def test_what_a_function_must_not_do_is_said(name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        run(name)


def test_a_tensor_has_the_declared_shape_and_a_column_must_be_there() -> None:
    with pytest.raises(RequestError, match="lists of 6 float"):
        run("doubled", makes=(MadeColumn(name="twice", dtype="float32", shape=(2, 3)),))
    with pytest.raises(RequestError, match="no column 'z'"):
        run("doubled", columns=("z",))


def test_a_module_that_is_missing_or_fails_is_named() -> None:
    with pytest.raises(RequestError, match=r"no module 'no_such_module', .* install it on every node"):
        check_functions([step("no_such_module.part:run")], allowed=True)
    with pytest.raises(RequestError, match="'antigravity_of_lightmill'"):
        check_functions([step("antigravity_of_lightmill:run")], allowed=True)


def test_functions_are_refused_unless_allowed_and_make_a_preparation_not_portable() -> None:
    record = FittedPreparation(steps=(step("os:system"),))
    assert not record.portable
    with pytest.raises(RequestError, match="LIGHTMILL_ALLOW_PYTHON_STEPS"):
        Preparation(record)
    with pytest.raises(RequestError, match="LIGHTMILL_ALLOW_PYTHON_STEPS"):
        check_functions(record.steps, allowed=False)


def test_serving_runs_no_function_unless_its_own_setting_says_so() -> None:
    steps = (step(f"{__name__}:doubled"), Features(columns=("twice",)))
    record = TabularPreparation(
        columns=(InputColumn(name="y", dtype="float64"),), fitted=FittedPreparation(steps=steps), width=1
    )
    with pytest.raises(RequestError, match="LIGHTMILL_SERVE_PYTHON_STEPS"):
        TabularInputs(record)
    inputs = TabularInputs(record, allow_python=True)
    assert inputs.features(inputs.table({"y": [1.5, 4.0]})).tolist() == [[3.0], [8.0]]


@pytest.mark.parametrize("path", ["os", "os.path", "os:", ":system", "os:path.join", "os;x:y", "__import__('os'):x"])
def test_a_function_is_named_by_module_and_name(path: str) -> None:
    with pytest.raises(ValueError, match="package.module:function"):
        step(path)
