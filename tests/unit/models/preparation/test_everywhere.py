"""Whatever the step: a table at once, row by row, in blocks, and after a trip through JSON give the same."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings

from lightmill.models.preparation import Preparation, Resources, fit
from tests.unit.models.preparation.examples import TABLES, TOKENIZER, again, same, steps

PER_ROW: dict[str, list[dict[str, Any]]] = {
    "impute mean": [{"step": "impute", "columns": ["x", "n"], "with": "mean", "indicator": True}],
    "impute median": [{"step": "impute", "columns": ["x", "y"], "with": "median"}],
    "impute most_frequent": [{"step": "impute", "columns": ["x", "n", "kind", "flag"], "with": "most_frequent"}],
    "impute constant": [
        {"step": "impute", "columns": ["kind"], "with": "constant", "value": "none"},
        {"step": "impute", "columns": ["n"], "with": "constant", "value": -1},
    ],
    "clip": [{"step": "clip", "columns": ["x", "n"], "minimum": -2, "maximum": 3.0}],
    "clip quantile": [{"step": "clip", "columns": ["x", "n"], "lower_quantile": 0.1, "upper_quantile": 0.9}],
    "standardize": [{"step": "standardize", "columns": ["x", "y", "n", "flag"]}],
    "min_max": [{"step": "min_max", "columns": ["x", "n"], "low": -1}],
    "one_hot": [{"step": "one_hot", "columns": ["kind", "n", "flag"], "unknown": "other", "max_categories": 2}],
    "ordinal": [{"step": "ordinal", "columns": ["kind", "n"], "min_count": 1}],
    "text_normalize": [
        {
            "step": "text_normalize",
            "columns": ["text"],
            "lower": True,
            "strip_accents": True,
            "replace": [{"pattern": "[0-9]+", "replacement": "0"}],
        }
    ],
    "tokenize": [{"step": "tokenize", "column": "text", "file": "tokenizer.json", "length": 4, "mask": True}],
    "tokenize ragged": [{"step": "tokenize", "column": "text", "file": "tokenizer.json"}],
    "image": [
        {"step": "image_decode", "column": "image"},
        {"step": "image_resize", "column": "image", "height": 4, "width": 3, "dtype": "float32"},
    ],
    "derive": [{"step": "derive", "column": "z", "value": "if(x > 0 and n is not null, x / n, coalesce(y, 0) + 1)"}],
    "python": [
        {
            "step": "python",
            "function": "tests.unit.models.preparation.test_functions:measured",
            "columns": ["text", "y"],
            "makes": [
                {"name": "words", "dtype": "int64"},
                {"name": "y", "dtype": "string"},
                {"name": "pair", "dtype": "float32", "shape": [1, 2]},
            ],
        }
    ],
    "features": [
        {"step": "impute", "columns": ["x", "n"], "with": "mean"},
        {"step": "clip", "columns": ["x"], "upper_quantile": 0.75},
        {"step": "standardize", "columns": ["x", "n"]},
        {"step": "one_hot", "columns": ["kind"]},
        {"step": "features", "columns": ["x", "kind", "y", "n"], "keep": False},
    ],
    "augment": [{"step": "augment", "columns": ["y"], "operations": [{"op": "noise", "std": 1}]}],
    "augment text": [
        {"step": "augment", "columns": ["text"], "operations": [{"op": "text_dropout", "probability": 0.5}]}
    ],
    "augment image": [
        {"step": "image_decode", "column": "image"},
        {"step": "image_resize", "column": "image", "height": 4, "width": 4},
        {
            "step": "augment",
            "columns": ["image"],
            "operations": [{"op": "flip"}, {"op": "crop", "padding": 2}, {"op": "noise", "std": 3}],
        },
    ],
}
FEWER_ROWS: dict[str, list[dict[str, Any]]] = {
    "filter": [{"step": "filter", "where": "x > 0 or kind in ('red', 'blue')"}],
    "deduplicate": [{"step": "deduplicate", "columns": ["n", "flag"]}],
    "deduplicate text": [{"step": "deduplicate", "columns": ["text"], "how": "near_text", "threshold": 0.5}],
}
ALL = PER_ROW | FEWER_ROWS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokenizer")
    (made / "tokenizer.json").write_text(TOKENIZER, encoding="utf-8")
    return made


@pytest.mark.parametrize("name", list(ALL))
@given(table=TABLES)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_at_once_row_by_row_and_after_json_are_the_same(name: str, table: pa.Table, folder: Path) -> None:
    if name.startswith("tokenize"):
        pytest.importorskip("tokenizers")
    resources = Resources(allow_python=True)
    found = fit(steps(*ALL[name]), lambda: [table], folder=folder, resources=resources)
    preparation = Preparation(found.record(), resources=resources, dropped=found.dropped)
    whole = preparation.apply(table, training=True)
    restored = Preparation(again(found.record()), resources=resources, dropped=found.dropped)
    restored = pickle.loads(pickle.dumps(restored))
    assert same(whole, restored.apply(table, training=True))
    rows = [restored.apply(table.slice(i, 1), training=True) for i in range(len(table))]
    assert same(whole, pa.concat_tables(rows))
    empty = restored.apply(table.slice(0, 0), training=True)
    assert len(empty) == 0
    assert empty.column_names == whole.column_names
    if name in PER_ROW:
        assert whole.column("row_id").equals(table.column("row_id"))
    else:
        kept = whole.column("row_id")
        assert same(whole, table.filter(pc.is_in(table.column("row_id"), value_set=kept.combine_chunks())))


@given(table=TABLES)
@settings(max_examples=10, deadline=None)
def test_serving_applies_the_same_without_what_changes_rows(table: pa.Table) -> None:
    declared = [
        {"step": "filter", "where": "y < 50"},
        *PER_ROW["features"],
        {"step": "augment", "columns": ["features"], "operations": [{"op": "noise", "std": 1}]},
    ]
    found = fit(steps(*declared), lambda: [table], folder=Path())
    at_serving = Preparation(again(found.record()).per_row()).apply(table)
    at_ingest = Preparation(found.record()).apply(table)
    assert len(at_serving) == len(table)
    assert same(at_ingest, at_serving.filter(pc.less(table.column("y"), 50)))


@given(table=TABLES)
@settings(max_examples=10, deadline=None)
def test_a_function_gives_the_same_at_ingest_row_by_row_and_at_serving(table: pa.Table) -> None:
    resources = Resources(allow_python=True)
    declared = [
        {"step": "filter", "where": "y < 50"},
        {**PER_ROW["python"][0]},
        {"step": "features", "columns": ["words", "pair"]},
    ]
    record = fit(steps(*declared), lambda: [table], folder=Path(), resources=resources).record()
    at_serving = Preparation(again(record).per_row(), resources=resources)
    served = at_serving.apply(table).filter(pc.less(table.column("y"), 50))
    assert same(Preparation(record, resources=resources).apply(table), served)
    rows = [at_serving.apply(table.slice(i, 1)) for i in range(len(table))]
    assert same(at_serving.apply(table), pa.concat_tables([*rows, at_serving.apply(table.slice(0, 0))]))


def test_ingest_and_training_divide_the_steps_at_the_first_augmentation() -> None:
    table = pa.table({"row_id": [1, 2], "y": [1.0, 2.0]})
    declared = [{"step": "standardize", "columns": ["y"]}, *PER_ROW["augment"], {"step": "features", "columns": ["y"]}]
    record = fit(steps(*declared), lambda: [table], folder=Path()).record()
    stored, later = record.divided()
    assert [step.step for step in stored.steps] == ["standardize"]
    assert [step.step for step in later.steps] == ["augment", "features"]
    whole = Preparation(record).apply(table, training=True, epoch=3)
    assert same(whole, Preparation(later).apply(Preparation(stored).apply(table), training=True, epoch=3))


def test_row_ids_can_come_beside_the_table() -> None:
    table = pa.table({"y": [1.0, 2.0, 3.0]})
    record = fit(steps({"step": "filter", "where": "y <> 2"}), lambda: [table], folder=Path()).record()
    found = Preparation(record).apply(table, row_ids=pa.array([10, 11, 12]).to_numpy())
    assert found.to_pydict() == {"row_id": [10, 12], "y": [1.0, 3.0]}
