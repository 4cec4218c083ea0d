"""Augmentation of training rows: flip, crop, noise and text dropout, drawn anew for each row id and epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.chance import normals, stream_of, uniforms
from lightmill.models.preparation.columns import (
    column_of,
    floats,
    is_number,
    is_text,
    one_array,
    row_ids,
    texts,
    with_column,
)
from lightmill.models.preparation.images import tensor
from lightmill.records.preparation import Augment, Crop, Flip, Noise, Operation, TextDropout

Ids = npt.NDArray[np.int64]


def augment(table: pa.Table, step: Augment, epoch: int) -> pa.Table:
    """Return the table with its columns changed at random.

    Raises:
        RequestError: A column or `row_id` is missing, or an operation does not fit a column's type.
    """
    ids = row_ids(table, "augment")
    for name in step.columns:
        for place, operation in enumerate(step.operations):
            stream = stream_of(step.seed, epoch, name, place)
            column = column_of(table, name, "augment")
            if isinstance(operation, TextDropout):
                changed = _drop_words(texts(table, name, "augment"), operation, stream, ids)
            elif isinstance(column.type, pa.FixedShapeTensorType):
                changed = _change_tensor(column, operation, stream, ids, name)
            elif isinstance(operation, Noise) and is_number(column.type):
                changed = _shake(column, operation, stream, ids, name)
            else:
                kind = "text" if is_text(column.type) else str(column.type)
                raise RequestError(
                    f"Step 'augment': {operation.op!r} does not fit column {name!r} of type {kind}. Flip and crop take "
                    "image tensors, noise numbers or tensors, text_dropout text."
                )
            table = with_column(table, name, changed)
    return table


def _change_tensor(column: pa.ChunkedArray, operation: Operation, stream: np.uint64, ids: Ids, name: str) -> pa.Array:
    array = one_array(column)
    if array.null_count:
        raise RequestError(
            f"Step 'augment': column {name!r} has {array.null_count} null tensors; filter them out first."
        )
    shape = tuple(column.type.shape)
    values = array.storage.flatten().to_numpy(zero_copy_only=False).reshape(len(array), *shape)
    if not isinstance(operation, Noise) and len(shape) != 3:
        raise RequestError(
            f"Step 'augment': {operation.op!r} needs images [height, width, channels]; column {name!r} has tensors of "
            f"shape {list(shape)}."
        )
    match operation:
        case Flip():
            hit = uniforms(stream, ids, 1)[:, 0] < operation.probability
            turned = np.flip(values, axis=2 if operation.axis == "horizontal" else 1)
            return tensor(np.where(hit[:, None, None, None], turned, values))
        case Crop():
            return tensor(_crop(values, operation.padding, uniforms(stream, ids, 2)))
        case _:
            return tensor(_noisy(values, operation, stream, ids))


def _crop(values: npt.NDArray[Any], padding: int, chance: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    rows, height, width, _ = values.shape
    padded = np.pad(values, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    start = np.floor(chance * (2 * padding + 1)).astype(np.int64)
    down = (start[:, 0, None] + np.arange(height))[:, :, None]
    across = (start[:, 1, None] + np.arange(width))[:, None, :]
    return padded[np.arange(rows)[:, None, None], down, across]


def _noisy(values: npt.NDArray[Any], operation: Operation, stream: np.uint64, ids: Ids) -> npt.NDArray[Any]:
    std = operation.std if isinstance(operation, Noise) else 0.0
    count = int(np.prod(values.shape[1:]))
    changed = values + std * normals(stream, ids, count).reshape(values.shape)
    if np.issubdtype(values.dtype, np.integer):
        info = np.iinfo(values.dtype)
        changed = np.clip(np.rint(changed), info.min, info.max)
    return changed.astype(values.dtype)


def _shake(column: pa.ChunkedArray, operation: Noise, stream: np.uint64, ids: Ids, name: str) -> pa.Array:
    if not pa.types.is_floating(column.type):
        raise RequestError(f"Step 'augment': noise needs floats; column {name!r} has type {column.type}.")
    values = floats(column, name, "augment")
    changed = values + operation.std * normals(stream, ids, 1)[:, 0]
    return pa.array(changed, mask=np.isnan(changed)).cast(column.type)


def _drop_words(text: pa.Array, operation: TextDropout, stream: np.uint64, ids: Ids) -> pa.Array:
    """Leave words out; a loop over rows, since rows have different numbers of words."""
    split = [value.split() if value is not None else None for value in text.to_pylist()]
    changed = [
        words and _without(words, uniforms(stream, ids[i : i + 1], len(words))[0], operation.probability)
        for i, words in enumerate(split)
    ]
    kept = [None if words is None else " ".join(words) for words in changed]
    return pa.array(kept, type=pa.large_string())


def _without(words: list[str], chance: npt.NDArray[np.float64], probability: float) -> list[str]:
    kept = [word for word, u in zip(words, chance, strict=True) if u >= probability]
    return kept or [words[int(chance.argmax())]]
