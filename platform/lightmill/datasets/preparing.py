"""The last pass: from kept rows to the columns that are sealed, and from rejected rows to what is kept aside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from lightmill.datasets.carried import stored_columns
from lightmill.datasets.columns import FEATURES, LABEL, ROW_ID
from lightmill.datasets.judging import KeptRows
from lightmill.datasets.quarantine import quarantine, unreadable
from lightmill.datasets.rows import Blocks
from lightmill.datasets.sealed import SPLIT_COLUMN, PreparedBlock
from lightmill.datasets.splitting import Codes
from lightmill.datasets.verdicts import TYPE, UNREADABLE, action_for, bad_rows
from lightmill.errors import RequestError
from lightmill.models.preparation.applying import Preparation, Resources
from lightmill.models.preparation.stages import Found, writes
from lightmill.models.preprocessing import Preparation as InPlace
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.fitted import FittedPreparation, FittedStandardize, TrainingPreparation
from lightmill.records.preparation import Features
from lightmill.records.signature import Preprocessing, Standardize
from lightmill.records.splitting import SPLITS


def in_place(spec: DatasetSpec, found: Found) -> Preprocessing | None:
    """Return the preparation as one of a single feature tensor, if it is no more than standardizing all of it."""
    steps = [found.steps[place] for place in sorted(found.steps)]
    columns = spec.feature_columns()
    if not spec.plain or any(not isinstance(step, FittedStandardize) or step.columns != columns for step in steps):
        return None
    single = (step for step in steps if isinstance(step, FittedStandardize))
    return Preprocessing(
        steps=tuple(
            Standardize(
                mean=tuple(float(np.float32(x)) for x in step.mean),
                scale=tuple(float(np.float32(x)) or 1.0 for x in step.scale),
            )
            for step in single
        )
    )


def with_features(spec: DatasetSpec, fitted: FittedPreparation) -> FittedPreparation:
    """Return the steps with one behind them that puts the feature columns together, unless one does already."""
    if any(step.step == "features" for step in fitted.steps) or any(step.step == "pack" for step in fitted.steps):
        return fitted
    columns = spec.feature_columns()
    if not columns:
        return fitted
    return FittedPreparation(steps=(*fitted.steps, Features(columns=columns, name=FEATURES)))


class Prepare:
    """Turns a block of source rows into the rows that are sealed, rejected ones included.

    Args:
        kept: Judges, masks, and tells splits.
        blocks: Where the rows come from.
        preprocessing: The preparation, where it is of one tensor in place.
        fitted: The preparation otherwise, as far as it applies before rows are sealed.
        dropped: What `deduplicate` steps leave out; refers to a mapping in Ray.
        training: What is left of the preparation for training.
        resources: What the steps need.
    """

    def __init__(
        self,
        kept: KeptRows,
        blocks: Blocks,
        spec: DatasetSpec,
        preprocessing: Preprocessing | None,
        fitted: FittedPreparation,
        dropped: Any,
        training: TrainingPreparation | None,
        resources: Resources,
    ) -> None:
        self._kept = kept
        self._blocks = blocks
        self._spec = spec
        self._preprocessing = preprocessing
        self._fitted = fitted
        self._dropped = dropped
        self._training = training
        self._resources = resources
        self._steps: Preparation | None = None
        self._rewritten = {name for step in spec.prepare for name in (writes(step) or ())}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_steps": None}

    def __call__(self, block: pa.Table) -> PreparedBlock:
        """Return what is sealed of a block."""
        kept = self._kept.of(block)
        table, _ = self._kept.reader.masked(kept.table, kept.row_id)
        out = self._prepared(table, kept.label, kept.row_id, kept.split)
        judged = kept.judged
        return PreparedBlock(rows=out, aside=self._aside(judged.source, judged.judgement, kept.verdict, judged.bad))

    def _prepared(
        self, table: pa.Table, labels: npt.NDArray[np.int64] | None, row_id: npt.NDArray[np.int64], split: Codes
    ) -> pa.Table:
        columns: dict[str, pa.Array | pa.ChunkedArray] = {ROW_ID: pa.array(row_id)}
        if labels is not None:
            columns[LABEL] = pa.array(labels)
        if self._preprocessing is not None:
            values = [table.column(name).to_numpy().astype(np.float32) for name in self._spec.feature_columns()]
            raw = np.stack(values, axis=1)
            dense = InPlace(self._preprocessing).apply(raw)
            if not np.isfinite(dense).all():
                row, place = (int(x) for x in np.argwhere(~np.isfinite(dense))[0])
                raise RequestError(
                    f"Column {self._spec.feature_columns()[place]!r} is missing or not finite in row {row_id[row]}. "
                    "Put `impute` or `clip` into `prepare`, or leave out max_nulls."
                )
            flat = pa.array(dense.reshape(-1), type=pa.float32())
            columns[FEATURES] = pa.FixedSizeListArray.from_arrays(flat, raw.shape[1])
            kept = table
        else:
            done = self._applied(table.add_column(0, ROW_ID, pa.array(row_id)), split)
            kept, left = table, done.column(ROW_ID).to_numpy()
            if not np.array_equal(left, row_id):
                place = np.searchsorted(row_id, left)
                columns = {name: column.take(pa.array(place)) for name, column in columns.items()}
                split, kept = split[place], table.take(pa.array(place))
            declared = set(table.column_names) - (self._rewritten - set(self._spec.feature_columns()))
            columns |= {
                name: _storage(done.column(name))
                for name in done.column_names
                if name not in declared and name != ROW_ID
            }
            columns |= stored_columns(done, self._training)
        columns[SPLIT_COLUMN] = pa.array(split)
        for name in self._spec.kept_columns():
            if name in kept.column_names and name not in columns:
                columns[name] = kept.column(name)
        return pa.table(columns)

    def _applied(self, table: pa.Table, split: Codes) -> pa.Table:
        """Apply the steps; those that join rows see the rows of one split at a time."""
        preparation = self._preparation()
        if not any(step.step == "pack" for step in self._fitted.steps):
            return preparation.apply(table)
        parts = [preparation.apply(table.filter(pa.array(split == code))) for code in range(len(SPLITS))]
        return pa.concat_tables([part for part in parts if len(part)] or parts[:1])

    def _aside(self, source: pa.Table, judgement: Any, verdict: npt.NDArray[np.int8], bad: tuple[Any, ...]) -> pa.Table:
        rules = self._spec.rules
        rows = bad_rows(verdict, rules, "quarantine")
        tables: list[pa.Table] = []
        if len(rows):
            tables.append(quarantine(source, judgement, rows, self._blocks.locate, verdict))
        lost = [one for one in bad if action_for(TYPE if one.kind == "type" else UNREADABLE, rules) == "quarantine"]
        if lost:
            tables.append(unreadable(lost))
        masked = [self._kept.reader.masked_aside(table) for table in tables]
        return pa.concat_tables(masked, promote_options="default") if masked else pa.table({})

    def _preparation(self) -> Preparation:
        if self._steps is None:
            dropped: Mapping[int, npt.NDArray[np.int64]] = ray.get(self._dropped)
            self._steps = Preparation(self._fitted, resources=self._resources, dropped=dropped)
        return self._steps


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a tensor column as the flat list of fixed size that files hold."""
    if isinstance(column.type, pa.FixedShapeTensorType):
        return pa.chunked_array([chunk.storage for chunk in column.chunks], type=column.type.storage_type)
    return column
