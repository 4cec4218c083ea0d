"""Fitted steps applied to tables: the same at ingest, in training, in batch and at serving."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.assembly import assemble
from lightmill.models.preparation.augmenting import augment
from lightmill.models.preparation.columns import ROW_ID
from lightmill.models.preparation.duplicates import without
from lightmill.models.preparation.encoding import one_hot, ordinal
from lightmill.models.preparation.expressions import Expression, derive, filter_rows
from lightmill.models.preparation.functions import PythonStep
from lightmill.models.preparation.images import Decoder, Resizer
from lightmill.models.preparation.numeric import NumericRun, NumericStep, joins
from lightmill.models.preparation.packing import pack
from lightmill.models.preparation.text import Normalizer
from lightmill.models.preparation.tokens import Tokenization
from lightmill.records.fitted import (
    FittedClip,
    FittedDeduplicate,
    FittedImpute,
    FittedMinMax,
    FittedOneHot,
    FittedOrdinal,
    FittedPreparation,
    FittedStandardize,
    FittedStep,
    FittedTokenize,
)
from lightmill.records.preparation import (
    Augment,
    Derive,
    Features,
    Filter,
    ImageDecode,
    ImageResize,
    Pack,
    Python,
    TextNormalize,
)

Apply = Callable[[pa.Table], pa.Table]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What steps need beside their record.

    `assets` maps the SHA-256 of a tokenizer file to its bytes, `root` is the folder of images given as paths, and
    `allow_python` lets `python` steps call functions.
    """

    assets: Mapping[str, bytes] = field(default_factory=dict)
    root: Path | None = None
    allow_python: bool = False


class Preparation:
    """A fitted preparation made ready to apply."""

    def __init__(
        self,
        record: FittedPreparation,
        *,
        resources: Resources | None = None,
        dropped: Mapping[int, Ids] | None = None,
    ) -> None:
        """Build every step.

        Args:
            record: The fitted steps.
            resources: What they need beside the record.
            dropped: For each `deduplicate` step, by its place in the record, the ids of the rows that it leaves out
                (rising). Without them the step leaves out none: the rows of a request are compared with no others.

        Raises:
            RequestError: A step needs something that is not given or not installed, or its pattern, expression or
                tokenizer is refused.
            IntegrityError: A tokenizer is not the one that the record names.
        """
        self._made_of = (record, resources, dropped)
        given = resources or Resources()
        empty = np.empty(0, dtype=np.int64)
        self._steps: list[Apply | Augment] = []
        numeric: list[NumericStep] = []
        for place, step in enumerate(record.steps):
            if isinstance(step, NumericStep):
                if not joins(step):
                    self._flush(numeric)
                numeric.append(step)
                continue
            self._flush(numeric)
            left_out = (dropped or {}).get(place, empty)
            self._steps.append(step if isinstance(step, Augment) else ready(step, given, left_out))
        self._flush(numeric)

    def __reduce__(self) -> tuple[Callable[..., Preparation], tuple[object, ...]]:
        return _again, self._made_of

    def _flush(self, numeric: list[NumericStep]) -> None:
        if numeric:
            self._steps.append(NumericRun(numeric))
            numeric.clear()

    def apply(self, table: pa.Table, *, training: bool = False, row_ids: Ids | None = None, epoch: int = 0) -> pa.Table:
        """Return the prepared table.

        Rows stay as many and in order, but for `filter`, `deduplicate` and `pack`; `row_id` goes along.

        Args:
            table: The rows.
            training: Whether `augment` steps apply.
            row_ids: int64 [rows], taken as the column `row_id` of a table that has none.
            epoch: Augmentation differs from epoch to epoch.

        Raises:
            RequestError: The table does not fit a step; the message names the step and the column.
            JobError: A `python` step raised an error.
        """
        if row_ids is not None:
            table = _with_ids(table, row_ids)
        for step in self._steps:
            if not isinstance(step, Augment):
                table = step(table)
            elif training:
                table = augment(table, step, epoch)
        return table


def ready(step: FittedStep, resources: Resources, dropped: Ids) -> Apply:
    """Return the function that applies one step; an `augment` step gives tables back as they are.

    Raises:
        RequestError: As for `Preparation`.
        IntegrityError: As for `Preparation`.
    """
    match step:
        case FittedImpute() | FittedClip() | FittedStandardize() | FittedMinMax():
            return NumericRun([step])
        case FittedOneHot():
            return lambda table: one_hot(table, step)
        case FittedOrdinal():
            return lambda table: ordinal(table, step)
        case TextNormalize():
            return Normalizer(step)
        case FittedTokenize():
            return Tokenization(step, resources.assets)
        case Pack():
            return lambda table: pack(table, step)
        case ImageDecode():
            return Decoder(step, resources.root)
        case ImageResize():
            return Resizer(step)
        case Filter():
            where = Expression(step.where)
            return lambda table: filter_rows(table, where)
        case Derive():
            value = Expression(step.value)
            return lambda table: derive(table, step.column, value)
        case FittedDeduplicate():
            return lambda table: without(table, dropped) if len(dropped) else table
        case Python():
            return PythonStep(step, allowed=resources.allow_python)
        case Features():
            return lambda table: assemble(table, step)
        case Augment():
            return lambda table: table


def _again(record: FittedPreparation, resources: Resources | None, dropped: Mapping[int, Ids] | None) -> Preparation:
    return Preparation(record, resources=resources, dropped=dropped)


def _with_ids(table: pa.Table, row_ids: Ids) -> pa.Table:
    if ROW_ID in table.column_names:
        raise RequestError("The table has a column `row_id` already; leave the argument row_ids out.")
    if len(row_ids) != len(table):
        raise RequestError(f"There are {len(row_ids)} row ids for {len(table)} rows; give one for each row.")
    return table.add_column(0, ROW_ID, pa.array(row_ids, type=pa.int64()))
