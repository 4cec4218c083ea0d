"""Rejected rows kept aside: what the source held, as text, with the reason beside each row."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from pyarrow import compute

from lightmill.datasets.columns import ROW_ID
from lightmill.datasets.expectations import Judgement
from lightmill.datasets.sources.port import ROW_BITS, BadRow
from lightmill.datasets.verdicts import REASONS, RULE_OF, TYPE, UNREADABLE, Locate
from lightmill.errors import RequestError

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them

PREFIX = "quarantine_"
REST = "; neither this row nor what follows it could be read"
HEAD = pa.schema(
    [
        (ROW_ID, pa.int64()),
        (f"{PREFIX}reason", pa.string()),
        (f"{PREFIX}column", pa.string()),
        (f"{PREFIX}rule", pa.string()),
        (f"{PREFIX}source", pa.string()),
        (f"{PREFIX}row", pa.int64()),
    ]
)


def quarantine(
    source: pa.Table,
    judgement: Judgement,
    rows: npt.NDArray[np.int64],
    locate: Locate,
    verdict: npt.NDArray[np.int8] | None = None,
) -> pa.Table:
    """Return some rows of a block as they were, with reasons.

    The columns are those of `HEAD`, then every column of the source as text; what is not UTF-8 is `base64:...`, lists
    are JSON.

    Args:
        source: The block that was judged.
        judgement: What was found.
        rows: Positions in the block, such as `verdicts.bad_rows` gives.
        locate: Gives the file and the row number in it, from 1, for a row id. Called once for each row.
        verdict: The verdicts if they have changed since, such as by `repeats.mark`.

    Raises:
        RequestError: A column of the source has a name that quarantine uses.
    """
    others = [name for name in source.column_names if name != ROW_ID]
    clash = [name for name in others if name.startswith(PREFIX)]
    if clash:
        raise RequestError(f"The source has a column {clash[0]!r}; names in {PREFIX}* are taken, rename it.")
    verdicts = (judgement.verdict if verdict is None else verdict)[rows]
    ids = judgement.row_id[rows]
    places = [locate(int(row)) for row in ids]
    names = judgement.table.column_names
    head = [
        pa.array(ids),
        pa.array([REASONS[code] for code in verdicts], type=pa.string()),
        pa.array([names[index] if index >= 0 else None for index in judgement.column[rows]], type=pa.string()),
        pa.array([RULE_OF.get(int(code)) for code in verdicts], type=pa.string()),
        pa.array([file for file, _ in places], type=pa.string()),
        pa.array([row for _, row in places], type=pa.int64()),
    ]
    taken = source.select(others).take(pa.array(rows))
    texts = [as_text(column) for column in taken.columns]
    return pa.Table.from_arrays(head + texts, names=[*HEAD.names, *others])


def unreadable(rows: Sequence[BadRow]) -> pa.Table:
    """Return rows that could not be read, or not in the types that were declared.

    The columns are those of `HEAD` and `quarantine_why` and `quarantine_text`.
    """
    codes = [TYPE if bad.kind == "type" else UNREADABLE for bad in rows]
    why = [bad.reason + (REST if bad.rest else "") for bad in rows]
    values = [
        [(bad.file << ROW_BITS) + bad.row for bad in rows],
        [REASONS[code] for code in codes],
        [bad.column for bad in rows],
        [RULE_OF[code] for code in codes],
        [bad.path for bad in rows],
        [bad.row + 1 for bad in rows],
        why,
        [bad.text for bad in rows],
    ]
    schema = HEAD.append(pa.field(f"{PREFIX}why", pa.string())).append(pa.field(f"{PREFIX}text", pa.string()))
    return pa.table([pa.array(list(found), type=kind.type) for found, kind in zip(values, schema, strict=True)], schema)


def as_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return any column as text; row by row for lists and bytes, so meant for the few rows that are kept aside."""
    kind = values.type
    if pa.types.is_null(kind):
        return values.cast(pa.string())
    if not (pa.types.is_nested(kind) or _is_bytes(kind) or isinstance(kind, pa.BaseExtensionType)):
        try:
            return pc.cast(values, pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return pa.chunked_array([pa.array([_text(value) for value in values.to_pylist()], type=pa.string())])
    return pa.chunked_array([pa.array([_text(value) for value in values.to_pylist()], type=pa.string())])


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return f"base64:{base64.b64encode(value).decode()}"
    return orjson.dumps(value, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()


def _plain(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
