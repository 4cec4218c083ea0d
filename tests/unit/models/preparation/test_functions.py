from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lightmill.errors import JobError, RequestError
from lightmill.models.preparation import Preparation, Resources
from lightmill.records.fitted import FittedPreparation
from lightmill.records.preparation import Python

TABLE = pa.table({"row_id": [1, 2], "y": [1.0, 2.0]})


def doubled(table: pa.Table) -> pa.Table:
    return table.append_column("twice", pc.multiply(table.column("y"), 2))


def shortened(table: pa.Table) -> pa.Table:
    return table.slice(1)


def renumbered(table: pa.Table) -> pa.Table:
    return table.set_column(0, "row_id", pa.array([5, 6]))


def no_table(table: pa.Table) -> list[int]:
    return [1, 2]


def failing(table: pa.Table) -> pa.Table:
    raise KeyError("y2")


def run(name: str) -> pa.Table:
    record = FittedPreparation(steps=(Python(function=f"{__name__}:{name}"),))
    return Preparation(record, resources=Resources(allow_python=True)).apply(TABLE)


def test_a_function_gives_columns() -> None:
    assert run("doubled").column("twice").to_pylist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("shortened", RequestError, "returned 1 rows for 2"),
        ("renumbered", RequestError, "row_id"),
        ("no_table", RequestError, "not list"),
        ("failing", JobError, "KeyError"),
        ("absent", RequestError, "no function"),
        ("TABLE", RequestError, "not a function"),
    ],
)
def test_what_a_function_must_not_do_is_said(name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        run(name)


def test_functions_are_refused_unless_allowed_and_make_a_preparation_not_portable() -> None:
    record = FittedPreparation(steps=(Python(function="os:system"),))
    assert not record.portable
    with pytest.raises(RequestError, match="allow_python"):
        Preparation(record)


@pytest.mark.parametrize("path", ["os", "os.path", "os:", ":system", "os:path.join", "os;x:y", "__import__('os'):x"])
def test_a_function_is_named_by_module_and_name(path: str) -> None:
    with pytest.raises(ValueError, match="package.module:function"):
        Python(function=path)
