"""Applying and fitting numeric preparation over plain NumPy that does the same, in one process.

    PYTHONPATH=platform python benchmarks/preparation.py [rows]

20 columns of float64 with 2 % missing values: impute by the mean, clip, standardize to float32. Best of five.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from lightmill.models.preparation import Preparation, fit
from lightmill.records.preparation import Step

COLUMNS = 20
DECLARED = [
    {"step": "impute", "columns": ["p{00..19}"], "with": "mean"},
    {"step": "clip", "columns": ["p{00..19}"], "minimum": -3, "maximum": 20},
    {"step": "standardize", "columns": ["p{00..19}"]},
]


def best(action: Callable[[], Any], times: int = 5) -> float:
    """Return the shortest time of an action, in seconds."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    """Print one JSON line for applying and one for fitting."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rng = np.random.default_rng(0)
    values = {f"p{i:02d}": rng.normal(i, 2, rows) for i in range(COLUMNS)}
    for column in values.values():
        column[rng.random(rows) < 0.02] = np.nan
    table = pa.table(values)
    steps = TypeAdapter(tuple[Step, ...]).validate_python(DECLARED)
    record = fit(steps, lambda: [table], folder=Path()).record()
    filled, _, scaled = (step.model_dump() for step in record.steps)
    preparation = Preparation(record)

    def plain_apply() -> None:
        for i, column in enumerate(values.values()):
            made = np.clip(np.where(np.isnan(column), filled["values"][i], column), -3, 20)
            ((made - scaled["mean"][i]) / scaled["scale"][i]).astype(np.float32)

    def plain_fit() -> None:
        for column in values.values():
            made = np.clip(np.where(np.isnan(column), np.nanmean(column), column), -3, 20)
            made.mean(), made.std()

    pairs = {
        "preparation_apply": (lambda: preparation.apply(table), plain_apply, 1.5),
        "preparation_fit": (lambda: fit(steps, lambda: [table], folder=Path()), plain_fit, None),
    }
    for what, (ours, peer, goal) in pairs.items():
        mine, theirs = best(ours), best(peer)
        line = {"what": what, "rows": rows, "ours": round(mine, 3), "peer": round(theirs, 3)}
        print(json.dumps({**line, "unit": "s", "ratio": round(mine / theirs, 2), "goal": goal}))


if __name__ == "__main__":
    main()
