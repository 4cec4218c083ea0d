from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from lightmill.errors import RequestError
from lightmill.models.preparation import Stage, check_order, fit, stages
from tests.unit.models.preparation.examples import NOWHERE, steps

IMPUTE = {"step": "impute", "columns": ["x"], "with": "mean"}
CONSTANT = {"step": "impute", "columns": ["x"], "with": "constant", "value": 0.0}
STANDARDIZE = {"step": "standardize", "columns": ["x"]}
OTHER = {"step": "standardize", "columns": ["y"]}
ENCODE = {"step": "one_hot", "columns": ["kind"]}
FILTER = {"step": "filter", "where": "x > 0"}
DERIVE = {"step": "derive", "column": "z", "value": "x + y"}
CLIP = {"step": "clip", "columns": ["z"], "lower_quantile": 0.1}
UNIQUE = {"step": "deduplicate", "columns": ["y"]}
FEATURES = {"step": "features", "columns": ["x", "y"]}
PYTHON = {"step": "python", "function": "a:b", "columns": ["x"], "makes": [{"name": "y", "dtype": "float64"}]}
AUGMENT = {"step": "augment", "columns": ["x"], "operations": [{"op": "noise", "std": 1}]}


@pytest.mark.parametrize(
    ("declared", "fits", "applies"),
    [
        ([], [], []),
        ([CONSTANT, FEATURES], [], []),
        ([CONSTANT, STANDARDIZE], [(1,)], [(0,)]),
        ([IMPUTE, STANDARDIZE], [(0, 1)], [()]),
        ([IMPUTE, FILTER, STANDARDIZE], [(0,), (2,)], [(), (0, 1)]),
        ([IMPUTE, {**DERIVE, "column": "x"}, STANDARDIZE], [(0,), (2,)], [(), (0, 1)]),
        ([IMPUTE, {**ENCODE, "columns": ["x"]}], [(0,), (1,)], [(), (0,)]),
        ([{**IMPUTE, "with": "most_frequent"}, {**ENCODE, "columns": ["x"]}], [(0, 1)], [()]),
        ([IMPUTE, STANDARDIZE, {**STANDARDIZE, "step": "min_max"}], [(0, 1), (2,)], [(), (0, 1)]),
        ([IMPUTE, {**STANDARDIZE, "columns": ["x", "y"]}], [(0, 1)], [()]),
        ([IMPUTE, OTHER, ENCODE], [(0, 1, 2)], [()]),
        ([IMPUTE, OTHER, STANDARDIZE, ENCODE], [(0, 1, 2, 3)], [()]),
        ([OTHER, DERIVE, IMPUTE, STANDARDIZE, CLIP], [(0, 2, 3), (4,)], [(), (0, 1)]),
        ([IMPUTE, FILTER, OTHER], [(0,), (2,)], [(), (0, 1)]),
        ([OTHER, {**FILTER, "where": "x > 0"}, STANDARDIZE], [(0, 2)], [(1,)]),
        (
            [IMPUTE, DERIVE, {"step": "clip", "columns": ["z"], "lower_quantile": 0.1}, ENCODE],
            [(0, 3), (2,)],
            [(), (0, 1)],
        ),
        ([UNIQUE, STANDARDIZE], [(0,), (1,)], [(), (0,)]),
        ([IMPUTE, PYTHON, OTHER], [(0,), (2,)], [(), (0, 1)]),
        ([AUGMENT, STANDARDIZE], [(1,)], [()]),
        ([{"step": "text_normalize", "columns": ["kind"]}, ENCODE, OTHER], [(1, 2)], [(0,)]),
    ],
)
def test_passes_are_as_few_as_the_steps_allow(
    declared: list[dict[str, Any]], fits: list[tuple[int, ...]], applies: list[tuple[int, ...]]
) -> None:
    wanted = [Stage(number=i, fits=f, applies=a) for i, (f, a) in enumerate(zip(fits, applies, strict=True))]
    assert list(stages(steps(*declared))) == wanted


def test_a_step_is_fitted_on_what_the_steps_before_it_give() -> None:
    table = pa.table({"row_id": range(6), "x": [None, 2.0, 4.0, -6.0, 2.0, 3.0], "y": [1.0, 1.0, 5.0, 9.0, 9.0, 7.0]})
    asked = 0

    def tables() -> list[pa.Table]:
        nonlocal asked
        asked += 1
        return [table.slice(0, 2), table.slice(2)]

    found = fit(steps(IMPUTE, FILTER, OTHER, STANDARDIZE), tables, folder=NOWHERE)
    assert asked == 2
    impute, _, other, standardize = found.record().steps
    assert impute.values == (1.0,)
    assert other.mean == ((1 + 1 + 5 + 9 + 7) / 5,)
    assert standardize.mean == ((1 + 2 + 4 + 2 + 3) / 5,)


def test_pack_is_last_and_expressions_are_checked_before_data_is_read() -> None:
    pack = {"step": "pack", "length": 8}
    check_order(steps(DERIVE, pack))
    with pytest.raises(RequestError, match="'standardize' stands behind"):
        check_order(steps(pack, STANDARDIZE))
    with pytest.raises(RequestError, match="'filter' must stand before 'augment'"):
        check_order(steps(AUGMENT, FILTER))
    with pytest.raises(RequestError, match="position 4"):
        check_order(steps({"step": "filter", "where": "x ="}))
