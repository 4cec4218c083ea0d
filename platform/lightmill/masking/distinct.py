"""The distinct values of an Arrow array, so that each is looked at once however often it stands there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

pc: Any = compute  # pyarrow makes its functions at import, where type checkers do not see them


@dataclass(frozen=True, slots=True, kw_only=True)
class Distinct:
    """An array as its distinct values and, for each row, which of them it has.

    Attributes:
        values: The distinct values, without null.
        places: int32 [rows], index into `values`, null where the row is null.
    """

    values: pa.Array
    places: pa.Array

    @classmethod
    def of(cls, array: pa.Array) -> Distinct:
        """Return the distinct values of an array."""
        encoded: Any = array.dictionary_encode()
        return cls(values=encoded.dictionary, places=encoded.indices)

    def rows_of(self) -> npt.NDArray[np.int64]:
        """Return int64 [values]: how many rows have each value."""
        places = pc.drop_null(self.places).to_numpy()
        return np.bincount(places, minlength=len(self.values)).astype(np.int64)

    def rebuild(self, values: pa.Array) -> pa.Array:
        """Return the array with `values` in place of the distinct ones."""
        return values.take(self.places)
