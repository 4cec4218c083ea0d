"""Columns of any Arrow type masked by their plans: flat ones, and the leaves of lists, structs and maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from lightmill.errors import RequestError
from lightmill.masking.detector import Detector
from lightmill.masking.finding import Finder
from lightmill.masking.keys import MaskingKey
from lightmill.masking.planning import ColumnPlan, plan_column
from lightmill.masking.whole import RowIds, is_text, mask_whole
from lightmill.records.masking import MaskingPolicy, NoiseRule

pc: Any = compute  # pyarrow makes its functions at import, where type checkers do not see them

Counts = Counter[tuple[str, str | None, str]]
"""Masked values by path, detector and action."""


class Columns:
    """The plans of a policy for columns with tags, each made once."""

    def __init__(
        self,
        policy: MaskingPolicy,
        tags: Mapping[str, Sequence[str]],
        known: Mapping[str, Detector],
        key: MaskingKey | None,
    ) -> None:
        self._policy = policy
        self._known = known
        self._tags = tags
        self._plans: dict[str, ColumnPlan] = {}
        self._finders: dict[str, Finder] = {}
        self.key = key

    def plan_of(self, path: str) -> ColumnPlan:
        """Return what happens to the values at a path, such as `mail` or `person.mail`."""
        if path not in self._plans:
            tags = self._tags.get(path) or self._tags.get(path.partition(".")[0], ())
            self._plans[path] = plan_column(self._policy, path, tags, self._known)
        return self._plans[path]

    def finder_of(self, path: str) -> Finder:
        """Return the finder of the values at a path."""
        if path not in self._finders:
            self._finders[path] = Finder(self.plan_of(path), self.key)
        return self._finders[path]

    def touches(self, path: str, kind: pa.DataType) -> bool:
        """Return whether anything may happen to values of a type at a path."""
        plan = self.plan_of(path)
        if plan.whole is not None:
            return plan.whole.action != "keep"
        if pa.types.is_struct(kind) or pa.types.is_map(kind) or is_list(kind):
            return any(self.touches(inner, leaf) for inner, leaf in inside(path, kind))
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return bool(plan.finding if is_text(kind) else plan.numeric and pa.types.is_integer(kind))


class TableWork:
    """The masking of one table: its row ids, and the counts on the way."""

    def __init__(self, columns: Columns, row_ids: RowIds | None) -> None:
        self._columns = columns
        self._row_ids = row_ids
        self.counts: Counts = Counter()
        self.epsilon: dict[str, float] = {}

    def column(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray | None:
        """Return the masked column, or None where it is dropped.

        Raises:
            RequestError: As `mask_whole` does; or text is not UTF-8.
        """
        if not self._columns.touches(name, column.type):
            return column
        done: list[pa.Array | None] = []
        start = 0
        try:
            for chunk in _chunks(column):
                ids = None if self._row_ids is None else self._row_ids[start : start + len(chunk)]
                done.append(self._array(name, chunk, ids))
                start += len(chunk)
        except UnicodeDecodeError as exc:
            raise RequestError(
                f"masking column {name!r}: a text is not valid UTF-8 ({exc.reason}); convert the source to UTF-8 first."
            ) from None
        arrays = [array for array in done if array is not None]
        return pa.chunked_array(arrays) if arrays else None

    def _array(self, path: str, array: Any, row_ids: RowIds | None) -> pa.Array | None:
        plan = self._columns.plan_of(path)
        if not self._columns.touches(path, array.type):
            return array
        if plan.whole is not None and plan.whole.action == "drop":
            self.counts[path, None, "drop"] += len(array) - array.null_count
            return None
        if pa.types.is_struct(array.type):
            return self._struct(path, array)
        if pa.types.is_map(array.type):
            return self._map(path, array)
        if is_list(array.type):
            return self._list(path, array)
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if pa.types.is_string_view(array.type):
            array = array.cast(pa.large_string())
        if plan.whole is None:
            finder = self._columns.finder_of(path)
            return finder.array(array, self.counts) if is_text(array.type) else finder.numbers(array, self.counts)
        self.counts[path, None, plan.whole.action] += len(array) - array.null_count
        if isinstance(plan.whole, NoiseRule):
            self.epsilon[path] = plan.whole.epsilon
        return mask_whole(array, plan, self._columns.key, row_ids)

    def _struct(self, path: str, array: Any) -> pa.Array | None:
        """Mask the fields; a struct of which no field is left is dropped."""
        fields = inside(path, array.type)
        masked = [self._array(inner, child, None) for (inner, _), child in zip(fields, array.flatten(), strict=True)]
        kept = [(field.name, child) for field, child in zip(array.type, masked, strict=True) if child is not None]
        if not kept:
            return None
        names = [name for name, _ in kept]
        return pa.StructArray.from_arrays([child for _, child in kept], names=names, mask=array.is_null())

    def _map(self, path: str, array: Any) -> pa.Array:
        entry = pa.struct([("key", array.type.key_type), ("value", array.type.item_type)])
        keys, values = pc.cast(array, pa.list_(entry)).flatten().flatten()
        (key_path, _), (value_path, _) = inside(path, array.type)
        keys, values = self._array(key_path, keys, None), self._array(value_path, values, None)
        if keys is None or values is None or keys.null_count:
            raise RequestError(
                f"masking column {path!r}: the keys of a map cannot be null and neither side can go alone; drop or "
                "keep the whole column."
            )
        offsets = pa.array(np.concatenate([[0], np.cumsum(_lengths(array))]), pa.int32())
        return pa.MapArray.from_arrays(offsets, keys, values, mask=array.is_null())

    def _list(self, path: str, array: Any) -> pa.Array | None:
        values = self._array(path, array.flatten(), None)
        large = pa.types.is_large_list(array.type)
        offsets = np.concatenate([[0], np.cumsum(_lengths(array))])
        build = pa.LargeListArray if large else pa.ListArray
        return build.from_arrays(pa.array(offsets, pa.int64() if large else pa.int32()), values, mask=array.is_null())


def _chunks(column: pa.ChunkedArray) -> list[pa.Array]:
    """Return the column as one array, or as few as its type can hold; at least one."""
    combined: Any = column.combine_chunks()
    return combined.chunks if isinstance(combined, pa.ChunkedArray) else [combined]


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is a list of values of one type, of any or of fixed length."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def inside(path: str, kind: Any) -> list[tuple[str, pa.DataType]]:
    """Return the path and type of what a nested type holds; the values of a list have the list's path."""
    if pa.types.is_struct(kind):
        return [(f"{path}.{field.name}", field.type) for field in kind]
    if pa.types.is_map(kind):
        return [(f"{path}.key", kind.key_type), (f"{path}.value", kind.item_type)]
    return [(path, kind.value_type)] if is_list(kind) else []


def paths_of(path: str, kind: pa.DataType) -> list[str]:
    """Return a path and all paths inside its type."""
    return [path, *(deeper for inner, leaf in inside(path, kind) for deeper in paths_of(inner, leaf))]


def _lengths(array: Any) -> Any:
    if pa.types.is_map(array.type):
        array = pc.cast(array, pa.list_(pa.struct([("key", array.type.key_type), ("value", array.type.item_type)])))
    return pc.fill_null(pc.list_value_length(array), 0).to_numpy()
