"""From the rows of a dataset's files to batches: the rest of the preparation, then the objective's tensors."""

from __future__ import annotations

import math

import pyarrow as pa

from lightmill.datasets.columns import ROW_ID
from lightmill.models.preparation import Preparation, Resources
from lightmill.records.assets import DatasetCard
from lightmill.records.fitted import StoredColumn
from lightmill.training.objectives import Batch, Objective

UNKNOWN_BYTES = 1 << 17


class Rows:
    """Reads batches of one dataset for one objective.

    Attributes:
        columns: The columns of the files that are needed.
        changing: Whether a row differs from epoch to epoch.
    """

    def __init__(self, objective: Objective, card: DatasetCard, *, allow_python: bool = False) -> None:
        """Make what is left of the preparation ready.

        Raises:
            RequestError: A step needs what is not installed here, or what is not allowed.
        """
        self._objective = objective
        self._training = card.training
        self._later: Preparation | None = None
        self._beside: tuple[str, ...] = ()
        self.columns = objective.columns
        self.changing = False
        self._stored_bytes = 0
        if self._training:
            self._later = Preparation(self._training.fitted, resources=Resources(allow_python=allow_python))
            self._beside = tuple(name for name in objective.columns if name not in self._training.makes)
            self._stored_bytes = sum(_cell_bytes(column) for column in self._training.columns)
            self.columns = (ROW_ID, *(column.stored for column in self._training.columns), *self._beside)
            self.changing = any(step.step == "augment" for step in self._training.fitted.steps)

    @property
    def row_bytes(self) -> int:
        """The bytes that one row takes: as tensors, or as the files hold it, whichever is more."""
        return max(self._objective.row_bytes, self._stored_bytes)

    def batch(self, table: pa.Table, *, epoch: int | None = None) -> Batch:
        """Return rows of the files as tensors on the CPU; those of a training `epoch` are augmented.

        Raises:
            RequestError: A value cannot be prepared, or does not fit the model.
        """
        if self._later is None or self._training is None:
            return self._objective.tensors(table)
        stored = {column.name: _restored(table.column(column.stored), column) for column in self._training.columns}
        waiting = pa.table({ROW_ID: table.column(ROW_ID), **stored})
        done = self._later.apply(waiting, training=epoch is not None, epoch=epoch or 0)
        for name in self._beside:
            done = done.append_column(name, table.column(name))
        return self._objective.tensors(_flat(done, self._objective.columns))


def _cell_bytes(column: StoredColumn) -> int:
    """Return about how many bytes a value takes; of what has no shape, such as encoded pictures, it is a guess."""
    return UNKNOWN_BYTES if column.shape is None else math.prod(column.shape) * 4


def _restored(column: pa.ChunkedArray, stored: StoredColumn) -> pa.ChunkedArray | pa.Array:
    """Return a column of the files with the shape of its tensors, which files do not hold."""
    if stored.shape is None:
        return column
    values = column.combine_chunks()
    kind = pa.fixed_shape_tensor(values.type.value_type, stored.shape)
    return pa.ExtensionArray.from_storage(kind, values)


def _flat(table: pa.Table, columns: tuple[str, ...]) -> pa.Table:
    """Return the columns with tensors as the lists of fixed size that files hold."""
    found = {}
    for name in columns:
        column = table.column(name)
        tensor = isinstance(column.type, pa.FixedShapeTensorType)
        found[name] = pa.chunked_array([part.storage for part in column.chunks]) if tensor else column
    return pa.table(found)
