from __future__ import annotations

from typing import Any

import pyarrow as pa

from lightmill.records.dataset_spec import DatasetSpec


def spec(**rules: str) -> DatasetSpec:
    """Two features, `a` from 0 to 10 and `b` without limits, and a label of two classes."""
    return DatasetSpec.model_validate(
        {
            "name": "d",
            "source": {"path": "d.csv"},
            "features": {"shape": [2]},
            "columns": [
                {"name": "a", "dtype": "int64", "minimum": 0, "maximum": 10},
                {"name": "b", "dtype": "float64"},
                {"name": "y", "dtype": "string", "role": "label", "values": ["no", "yes"]},
                {"name": "note", "dtype": "string", "role": "ignore"},
            ],
            "rules": rules,
        }
    )


def block(rows: list[tuple[Any, Any, Any]], first: int = 0) -> pa.Table:
    """Rows (a, b, y) as the source yields them."""
    a, b, y = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "row_id": pa.array(range(first, first + len(rows)), type=pa.int64()),
            "a": pa.array(a, type=pa.int64()),
            "b": pa.array(b, type=pa.float64()),
            "y": pa.array(y, type=pa.string()),
        }
    )
