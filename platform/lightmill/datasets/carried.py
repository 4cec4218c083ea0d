"""What a version's card carries of its preparation, for training: token ids, and the steps from `augment` on."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from lightmill.datasets.columns import ROW_ID
from lightmill.errors import RequestError
from lightmill.models.preparation import Preparation, Resources
from lightmill.models.preparation.stages import reads, writes
from lightmill.models.preparation.tokens import vocabulary_size
from lightmill.records.fitted import (
    FittedPreparation,
    FittedTokenize,
    InputColumn,
    StoredColumn,
    TokenPreparation,
    TrainingPreparation,
)
from lightmill.records.preparation import Pack

STORED = "prepared_"


def token_preparation(fitted: FittedPreparation, columns: Sequence[InputColumn]) -> TokenPreparation | None:
    """Return what says how a version's token ids are made and read, or None if its rows hold none of one length."""
    tokenizers = {step.declared.output: step for step in fitted.steps if isinstance(step, FittedTokenize)}
    pack = next((step for step in fitted.steps if isinstance(step, Pack)), None)
    if pack is not None:
        column, length, segments = pack.column, pack.length, f"{pack.column}_segments"
    else:
        fixed = [step.declared for step in tokenizers.values() if step.declared.length]
        if len(fixed) != 1:
            return None
        column, length = fixed[0].output, fixed[0].length or 0
        segments = f"{column}_mask" if fixed[0].mask else None
    tokenizer = tokenizers.get(column)
    beside = (pack.separator or 0, pack.pad_id) if pack else (tokenizer.pad_id if tokenizer else 0,)
    return TokenPreparation(
        column=column,
        length=length,
        segments=segments,
        vocabulary=max(vocabulary_size(tokenizer), *(id + 1 for id in beside)) if tokenizer else None,
        columns=tuple(column for column in columns if column.dtype == "string"),
        fitted=fitted.per_row(),
    )


def training_preparation(
    fitted: FittedPreparation, rows: pa.Table, resources: Resources
) -> tuple[FittedPreparation, TrainingPreparation | None]:
    """Divide the steps: those that apply before rows are sealed, and what is left for training, if anything is.

    Args:
        fitted: All steps.
        rows: A table without rows, of the columns that the steps take.
        resources: What the steps need.

    Raises:
        RequestError: A step does not fit the columns.
    """
    now, later = fitted.divided()
    if not later.steps:
        return now, None
    if ROW_ID not in rows.column_names:
        rows = rows.add_column(0, ROW_ID, pa.array([], pa.int64()))
    taken = [name for name in rows.column_names if name.startswith(STORED)]
    if taken:
        raise RequestError(f"With `augment`, names that begin with {STORED!r} are taken; rename column {taken[0]!r}.")
    stored = Preparation(now, resources=resources).apply(rows)
    done = Preparation(later, resources=resources).apply(stored)
    wanted = _wanted(later, stored.column_names)
    return now, TrainingPreparation(
        columns=tuple(
            StoredColumn(name=field.name, stored=STORED + field.name, shape=_shape(field.type))
            for field in stored.schema
            if field.name in wanted
        ),
        fitted=later,
        makes=tuple(name for name in done.column_names if name in wanted or name not in stored.column_names),
    )


def stored_columns(done: pa.Table, training: TrainingPreparation | None) -> dict[str, pa.ChunkedArray]:
    """Return the columns that wait in the files for the rest of the preparation."""
    found = {column.stored: done.column(column.name) for column in (training.columns if training else ())}
    return {name: _storage(column) for name, column in found.items()}


def _wanted(later: FittedPreparation, known: Sequence[str]) -> set[str]:
    """Return which known columns the later steps read."""
    wanted: set[str] = set()
    made: set[str] = set()
    for step in later.steps:
        wanted |= reads(step) - made
        made |= set(writes(step) or ())
    return (wanted & set(known)) - {ROW_ID}


def _shape(kind: pa.DataType) -> tuple[int, ...] | None:
    return tuple(kind.shape) if isinstance(kind, pa.FixedShapeTensorType) else None


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if isinstance(column.type, pa.FixedShapeTensorType):
        return pa.chunked_array([chunk.storage for chunk in column.chunks], type=column.type.storage_type)
    return column
