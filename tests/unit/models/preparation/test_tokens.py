from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import IntegrityError, NotFoundError, RequestError
from lightmill.models.preparation import Packer, Preparation, Resources
from lightmill.records.preparation import Pack
from tests.unit.models.preparation.examples import TOKENIZER, again, fitted, prepare

TABLE = pa.table({"row_id": [1, 2, 3, 4], "text": ["A light mill", "turns", None, "a a a a quick mill"]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    (tmp_path / "tokenizer.json").write_text(TOKENIZER, encoding="utf-8")
    return tmp_path


def tokenize(**more: Any) -> dict[str, Any]:
    return {"step": "tokenize", "column": "text", "file": "tokenizer.json", **more}


def test_tokens_of_any_length(folder: Path) -> None:
    made = prepare(TABLE, tokenize(output="ids"), folder=folder)
    assert made.column("ids").to_pylist() == [[2, 3, 4], [5], [], [2, 2, 2, 2, 1, 4]]
    assert made.column("text").equals(TABLE.column("text"))


def test_tokens_of_fixed_length_are_cut_and_padded_on_the_asked_side(folder: Path) -> None:
    made = prepare(TABLE, tokenize(length=4, mask=True), folder=folder)
    assert made.column("tokens").to_pylist() == [[2, 3, 4, 0], [5, 0, 0, 0], [0, 0, 0, 0], [2, 2, 2, 2]]
    assert made.column("tokens_mask").to_pylist() == [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    left = prepare(TABLE, tokenize(length=2, pad="left", truncate="left", pad_id=9), folder=folder)
    assert left.column("tokens").to_pylist() == [[3, 4], [9, 5], [9, 9], [1, 4]]
    assert left.column("tokens").type == pa.list_(pa.int32(), 2)


def test_special_tokens_stay_when_text_is_cut(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    made = json.loads(TOKENIZER)
    made["post_processor"] = {"type": "BertProcessing", "sep": ["[UNK]", 1], "cls": ["[PAD]", 0]}
    made["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 5,
        "pad_type_id": 0,
        "pad_token": "turns",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(made), encoding="utf-8")
    found = prepare(TABLE, tokenize(length=4), folder=tmp_path).column("tokens").to_pylist()
    assert found == [[0, 2, 3, 1], [0, 5, 1, 5], [5, 5, 5, 5], [0, 2, 2, 1]]
    plain = prepare(TABLE, tokenize(special_tokens=False), folder=tmp_path).column("tokens").to_pylist()
    assert plain[0] == [2, 3, 4]


def test_the_tokenizer_travels_by_value_or_by_digest(folder: Path) -> None:
    record = fitted(TABLE, tokenize(), folder=folder).record()
    (folder / "tokenizer.json").unlink()
    wanted = Preparation(again(record)).apply(TABLE)
    (step,) = record.steps
    slim = again(record.model_copy(update={"steps": (step.model_copy(update={"text": None}),)}))
    with pytest.raises(RequestError, match="give it in `assets`"):
        Preparation(slim)
    assets = {step.sha256: TOKENIZER.encode()}
    assert Preparation(slim, resources=Resources(assets=assets)).apply(TABLE).equals(wanted)
    with pytest.raises(IntegrityError, match="digest"):
        Preparation(slim, resources=Resources(assets={step.sha256: b"{}"}))
    assert "light" not in repr(record)


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (None, NotFoundError, "no file"),
        (b"{}", RequestError, "no tokenizer"),
        (b"\xff\xfe", RequestError, "not UTF-8"),
    ],
)
def test_what_is_no_tokenizer_is_refused(
    folder: Path, content: bytes | None, error: type[Exception], says: str
) -> None:
    place = folder / "tokenizer.json"
    place.unlink()
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(error, match=says):
        prepare(TABLE, tokenize(), folder=folder)


def test_a_tokenizer_needs_text(folder: Path) -> None:
    with pytest.raises(RequestError, match="type int64, not text"):
        prepare(pa.table({"text": [1]}), tokenize(), folder=folder)


def sequences(table: pa.Table, **pack: Any) -> list[tuple[int, list[int], list[int]]]:
    made = prepare(table, {"step": "pack", **pack})
    return list(zip(*(made.column(name).to_pylist() for name in ("row_id", "tokens", "tokens_segments")), strict=True))


def test_packing_by_hand() -> None:
    table = pa.table({"row_id": [10, 11, 12], "tokens": [[1, 2, 3], [], [4, 5]]})
    assert sequences(table, length=4, separator=9, pad_id=7) == [
        (10, [1, 2, 3, 9], [1, 1, 1, 1]),
        (11, [9, 4, 5, 9], [1, 2, 2, 2]),
    ]
    assert sequences(table, length=4) == [(10, [1, 2, 3, 4], [1, 1, 1, 2]), (12, [5, 0, 0, 0], [1, 0, 0, 0])]
    assert sequences(table, length=4, remainder="drop") == [(10, [1, 2, 3, 4], [1, 1, 1, 2])]
    assert sequences(table.slice(0, 0), length=4) == []


def test_a_row_may_fill_many_sequences() -> None:
    table = pa.table({"row_id": [5], "tokens": [list(range(7))]})
    assert [tokens for _, tokens, _ in sequences(table, length=3)] == [[0, 1, 2], [3, 4, 5], [6, 0, 0]]


@given(
    st.lists(st.lists(st.integers(1, 99), max_size=9), max_size=12),
    st.integers(2, 7),
    st.one_of(st.none(), st.just(100)),
    st.sets(st.integers(0, 12)),
)
@settings(max_examples=50, deadline=None)
def test_packing_loses_nothing_whatever_the_tables(
    rows: list[list[int]], length: int, separator: int | None, cuts: set[int]
) -> None:
    ids = pa.array(range(len(rows)), pa.int64())
    table = pa.table({"row_id": ids, "tokens": pa.array(rows, pa.list_(pa.int64()))})
    step = Pack(length=length, separator=separator)
    packer, parts = Packer(step), []
    bounds = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    for start, end in pairwise(bounds):
        parts.append(packer.add(table.slice(start, end - start)))
    whole = pa.concat_tables([*parts, packer.finish()])
    at_once = Packer(step)
    assert whole.equals(pa.concat_tables([at_once.add(table), at_once.finish()]))
    stream = [token for row in rows for token in [*row, *([separator] if separator else [])]]
    packed = np.array(whole.column("tokens").to_pylist()).reshape(-1)
    segments = np.array(whole.column("tokens_segments").to_pylist()).reshape(-1)
    assert packed[segments > 0].tolist() == stream
    assert len(packed) == -(-len(stream) // length) * length


@pytest.mark.parametrize("column", [pa.array([1]), pa.array([[1, 2]], pa.list_(pa.int32(), 2)), pa.array([["a"]])])
def test_only_lists_of_ids_of_any_length_are_packed(column: pa.Array) -> None:
    with pytest.raises(RequestError, match="Tokenize without `length`"):
        sequences(pa.table({"row_id": [1], "tokens": column}), length=4)
    with pytest.raises(RequestError, match="NULL token"):
        sequences(pa.table({"row_id": [1], "tokens": [[1, None]]}), length=4)
