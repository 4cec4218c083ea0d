"""What a sample says of each column: the narrowest dtype to which every value converts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyarrow import compute

from lightmill.datasets.columns import ROW_ID
from lightmill.datasets.conversion import convert
from lightmill.errors import RequestError
from lightmill.records.quality import FLOATS, INTEGERS, ColumnRule

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them

_FAMILY = re.compile(r"\{\d+\.\.\d+\}")
_LEADING_ZERO = r"^\s*[+-]?0[0-9]"
_LONG_INTEGER = r"^\s*[+-]?[0-9]{16,}\s*$"
_FROM_TEXT = ("bool", "int64", "float64", "date", "timestamp", "string")


@dataclass(slots=True, kw_only=True)
class Guess:
    """What is known of one column while the proposal grows; `why` are the comments."""

    name: str
    rule: dict[str, Any]
    values: pa.ChunkedArray
    rows: int
    distinct: int
    why: list[str] = field(default_factory=list)

    @property
    def dtype(self) -> str:
        """Return the guessed dtype."""
        return self.rule["dtype"]

    @property
    def there(self) -> int:
        """Return the number of values that are not missing."""
        return self.rows - self.values.null_count


def common_columns(tables: Mapping[str, pa.Table]) -> tuple[dict[str, list[pa.Array]], list[str]]:
    """Return the parts of every column that all tables have, in the order of the first, and notes on the others."""
    notes: list[str] = []
    for file, table in tables.items():
        names = table.column_names
        if len(set(names)) < len(names):
            twice = next(name for at, name in enumerate(names) if name in names[:at])
            raise RequestError(f"{file} has the column {twice!r} twice; rename one.")
    order = list(dict.fromkeys(name for table in tables.values() for name in table.column_names))
    out: dict[str, list[pa.Array]] = {}
    for name in order:
        holders = [table for table in tables.values() if name in table.column_names]
        if len(holders) < len(tables):
            notes.append(f"column {quoted(name)} is in {len(holders)} of {len(tables)} files only, and left out")
        elif not name or name == ROW_ID or _FAMILY.search(name):
            notes.append(f"column {quoted(name)} is left out: a column cannot be declared by this name; rename it")
        else:
            out[name] = [chunk for table in holders for chunk in table.column(name).chunks]
    return out, notes


def guess_column(name: str, parts: list[pa.Array], notes: list[str]) -> Guess | None:
    """Return what is known of a column, or None with one more note where it cannot be declared."""
    kinds = list(dict.fromkeys(str(part.type) for part in parts if not pa.types.is_null(part.type)))
    candidates = _candidates(parts)
    why = [] if len(kinds) < 2 else [f"the sample has {' and '.join(kinds)}"]
    for rule in candidates:
        # Infinities are no breach of a dtype, so they are admitted until their number is known.
        declared = ColumnRule.model_validate({"name": name, **rule})
        found = [convert(part, declared) for part in parts]
        if any(failed.any() for _, failed in found):
            continue
        kind = found[0][0].type if found else pa.string()
        values = pa.chunked_array([values for values, _ in found], type=kind)
        distinct = 0 if declared.container else len(values.drop_null().unique())
        return Guess(name=name, rule=rule, values=values, rows=len(values), distinct=distinct, why=why)
    notes.append(f"column {quoted(name)} is left out: its type ({', '.join(kinds)}) cannot be declared")
    return None


def _candidates(parts: list[pa.Array]) -> list[dict[str, Any]]:
    """Return the dtypes to try, the narrowest first."""
    kinds = [_unwrapped(part.type) for part in parts if not pa.types.is_null(part.type)]
    if not kinds:
        return [{"dtype": "string"}]
    if all(kind == kinds[0] for kind in kinds) and not _is_text(kinds[0]):
        first = _declared(kinds[0], next(part.type for part in parts if not pa.types.is_null(part.type)))
        return ([first] if first else []) + [{"dtype": name} for name in ("float64", "string", "binary")]
    texts = [part for part in parts if _is_text(_unwrapped(part.type))]
    if any(_matches(text, _LEADING_ZERO) or _matches(text, _LONG_INTEGER) for text in texts):
        return [{"dtype": "string"}]
    if texts and not _has_values(texts):
        return [{"dtype": "string"}]
    from_text = _FROM_TEXT if len(texts) < len(parts) or not _looks_binary(texts) else _FROM_TEXT[1:]
    return [{"dtype": name} for name in from_text]


def _has_values(texts: Sequence[pa.Array]) -> bool:
    declared = ColumnRule(name="c", dtype="float64")
    for text in texts:
        found, failed = convert(text, declared)
        if failed.any() or found.null_count < len(found):
            return True
    return False


def _looks_binary(texts: Sequence[pa.Array]) -> bool:
    """Return whether some text is a bare 0 or 1, which is a number rather than a truth value."""
    return any(_matches(text, r"^\s*[01]\s*$") for text in texts)


def _unwrapped(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _unwrapped(kind.storage_type)
    return _unwrapped(kind.value_type) if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _matches(texts: pa.Array, pattern: str) -> bool:
    plain, _ = convert(texts, ColumnRule(name="c", dtype="string"))
    return bool(pc.any(pc.match_substring_regex(plain, pattern)).as_py())


def _declared(kind: pa.DataType, whole: pa.DataType) -> dict[str, Any] | None:
    """Return the declaration of an Arrow type, or None for one that only a conversion can serve."""
    if isinstance(whole, pa.FixedShapeTensorType):
        inner = _declared(whole.value_type, whole.value_type)
        return inner and {"dtype": f"tensor<{inner['dtype']}>", "shape": list(whole.shape)}
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _declared(kind.value_type, kind.value_type)
        if not inner or "<" in inner["dtype"]:
            return None
        if pa.types.is_fixed_size_list(kind) and kind.list_size:
            return {"dtype": f"tensor<{inner['dtype']}>", "shape": [kind.list_size]}
        return {"dtype": f"list<{inner['dtype']}>"}
    names = {"double": "float64", "float": "float32", "halffloat": "float32", "large_string": "string"}
    name = names.get(str(kind), str(kind))
    if pa.types.is_timestamp(kind):
        name = "timestamp"
    if pa.types.is_date(kind):
        name = "date"
    if pa.types.is_decimal(kind):
        name = "float64"
    if name in ("bool", "string", "binary", "date", "timestamp", *INTEGERS, *FLOATS):
        return {"dtype": name}
    return None


def quoted(name: str) -> str:
    """Return a name for a comment: on one line, whatever it holds."""
    return json.dumps(name)
