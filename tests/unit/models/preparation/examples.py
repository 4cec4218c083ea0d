"""Tables and declared steps that the tests of preparation share."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter

from lightmill.models.preparation import Found, Preparation, Resources, fit
from lightmill.records.fitted import FittedPreparation
from lightmill.records.preparation import Step

NOWHERE = Path("/nonexistent")
WORDS = {"[PAD]": 0, "[UNK]": 1, "a": 2, "light": 3, "mill": 4, "turns": 5}
TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"},
    }
)


def steps(*declared: dict[str, Any]) -> tuple[Step, ...]:
    return TypeAdapter(tuple[Step, ...]).validate_python(declared)


def fitted(table: pa.Table, *declared: dict[str, Any], folder: Path = NOWHERE, python: bool = False) -> Found:
    return fit(steps(*declared), lambda: [table], folder=folder, resources=Resources(allow_python=python))


def prepare(table: pa.Table, *declared: dict[str, Any], folder: Path = NOWHERE) -> pa.Table:
    found = fitted(table, *declared, folder=folder)
    return Preparation(found.record(), dropped=found.dropped).apply(table)


def again(record: FittedPreparation) -> FittedPreparation:
    return FittedPreparation.model_validate_json(record.model_dump_json())


def png(width: int = 3, height: int = 2, seed: int = 0, mode: str = "RGB") -> bytes:
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels, mode).save(buffer, "PNG")
    return buffer.getvalue()


NUMBERS = st.one_of(
    st.none(),
    st.just(float("nan")),
    st.integers(-5, 5).map(float),
    st.floats(-1e6, 1e6, allow_subnormal=False),
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "x": NUMBERS,
            "y": st.floats(-100, 100),
            "n": st.one_of(st.none(), st.integers(-3, 3)),
            "kind": st.one_of(st.none(), st.sampled_from(["red", "green", "blue", "Ähre"])),
            "flag": st.one_of(st.none(), st.booleans()),
            "text": st.one_of(st.none(), st.text("aä lightmİturns\t\n.", max_size=20), st.text(max_size=12)),
        }
    ),
    min_size=1,
    max_size=7,
)
SCHEMA = pa.schema(
    [
        ("row_id", pa.int64()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("n", pa.int32()),
        ("kind", pa.string()),
        ("flag", pa.bool_()),
        ("text", pa.string()),
        ("image", pa.binary()),
    ]
)


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    """Return a table of generated rows; the first row has every value, so that each column can be fitted."""
    first = {"x": 1.5, "y": 2.0, "n": 1, "kind": "red", "flag": True, "text": "a light mill"}
    made = [{**row, "row_id": 7 * i + 3, "image": png(2 + i % 3, 3, i)} for i, row in enumerate([first, *rows])]
    return pa.Table.from_pylist(made, schema=SCHEMA)


TABLES = ROWS.map(table_of)


def same(left: pa.Table, right: pa.Table) -> bool:
    """Whether two tables have equal columns; NaN equals NaN, and how a table is cut does not count."""
    assert left.schema == right.schema, (left.schema, right.schema)
    for name in left.column_names:
        a, b = left.column(name), right.column(name)
        if repr(a.to_pylist()) != repr(b.to_pylist()):
            return False
    return True
