"""The ingest of `made_rows.specification` as one would write it with Ray Data alone, plain Parquet out.

Three streaming passes, each a task for some row groups, all of it vectorized in pyarrow and NumPy:

1. read the label column only, and divide the rows into splits on the driver, every class by the exact shares;
2. read and check every column of every row, and sum up mean and deviation of the numbers over the training split;
3. read again, impute, standardize and write, one folder for each split.

It does what the specification asks: types, limits, allowed values, lengths and missing values of all 20 columns are
checked before anything is written, and the fit sees the training split only. Its files have the same columns, the same
compression (zstd) and about the same number of rows as ours. It knows this one dataset, so that it does without what an
ingest for any dataset has: it stops at the first fault it finds with a count and a column instead of judging each row;
it keeps no row aside, makes no profile, no digest and no version, cannot resume, sums in plain float64, and leaves
what it wrote to the page cache instead of waiting for the disk. Its writer has Ray's defaults but for the compression:
a dictionary is tried for every column.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data

from benchmarks.made_rows import CLASSES, LENGTHS, LIMITS, MAX_NULLS, MISSING, NUMBERS, SEED, SHARES, VALUES, schema

FILE_ROWS = 375_000  # of which 70 % train: about the 250,000 rows of our files
ROW_GROUP_ROWS = 125_000
SPLITS = np.array(list(SHARES))
NAMES = list(NUMBERS)


def ingest_by_hand(paths: list[Path], out: Path) -> int:
    """Run the pipeline; return the number of rows written."""
    tasks = list(_tasks(paths))
    work = ray.data.from_items(tasks, override_num_blocks=len(tasks))
    split = _split(_labels(work))
    shared = ray.put(split)
    mean, scale = _fitted(work, shared)
    prepared = work.map_batches(
        _prepare,
        batch_format="pyarrow",
        batch_size=None,
        fn_kwargs={"shared": shared, "mean": mean, "scale": scale},
    )
    prepared.write_parquet(str(out), partition_cols=["split"], compression="zstd", row_group_size=ROW_GROUP_ROWS)
    return len(split)


def _tasks(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield pieces of files: consecutive row groups of about FILE_ROWS rows, and the number of the first row."""
    first = 0
    for path in paths:
        groups = [pq.read_metadata(path).row_group(n).num_rows for n in range(pq.read_metadata(path).num_row_groups)]
        start = 0
        while start < len(groups):
            end, rows = start, 0
            while end < len(groups) and rows + groups[end] <= max(FILE_ROWS, groups[start]):
                rows += groups[end]
                end += 1
            yield {"path": str(path), "start": start, "end": end, "first": first, "rows": rows}
            start, first = end, first + rows


def _read(task: dict[str, Any], columns: list[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
    """Yield the row groups of a piece, each with the number of its first row."""
    with pq.ParquetFile(task["path"]) as file:
        first = task["first"]
        for group in range(task["start"], task["end"]):
            table = file.read_row_group(group, columns=columns)
            yield first, table
            first += len(table)


# -- the first pass: splits ---------------------------------------------------


def _labels(work: ray.data.Dataset) -> npt.NDArray[np.int8]:
    found = work.map_batches(_label_codes, batch_format="pyarrow", batch_size=None)
    parts = [(row["first"], row["codes"]) for row in found.iter_rows()]
    return np.concatenate([np.frombuffer(codes, dtype=np.int8) for _, codes in sorted(parts, key=lambda part: part[0])])


def _label_codes(batch: pa.Table) -> Iterator[pa.Table]:
    for task in batch.to_pylist():
        for first, table in _read(task, ["outcome"]):
            codes = pc.fill_null(pc.index_in(table.column("outcome"), value_set=pa.array(CLASSES)), -1)
            if pc.min(codes).as_py() < 0:
                raise ValueError(f"{task['path']}: the label is missing or not among {CLASSES}")
            yield pa.table({"first": [first], "codes": [codes.to_numpy().astype(np.int8).tobytes()]})


def _split(labels: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Return the split of each row: every class has the exact shares, to one row."""
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=len(CLASSES)))
    out = np.full(len(labels), 2, dtype=np.int8)
    for code, rows in enumerate(np.split(order, ends[:-1])):
        shuffled = np.random.default_rng([SEED, code]).permutation(rows)
        train, validation = round(len(rows) * SHARES["train"]), round(len(rows) * SHARES["validation"])
        out[shuffled[:train]] = 0
        out[shuffled[train : train + validation]] = 1
    return out


# -- the second pass: checks and sums -----------------------------------------


def _fitted(work: ray.data.Dataset, shared: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the mean of each number, and its deviation after missing values have become the mean."""
    sums = work.map_batches(_measure, batch_format="pyarrow", batch_size=None, fn_kwargs={"shared": shared})
    count = np.zeros(len(NAMES))
    mean, apart, rows = np.zeros(len(NAMES)), np.zeros(len(NAMES)), 0
    for part in sums.iter_rows():
        n, m, s = (np.asarray(part[name]) for name in ("count", "mean", "apart"))
        both, delta = np.maximum(count + n, 1), m - mean
        apart += s + delta**2 * count * n / both
        mean += delta * n / both
        count += n
        rows += part["rows"]
    return mean, np.sqrt(apart / rows)


def _measure(batch: pa.Table, shared: Any) -> Iterator[pa.Table]:
    split = ray.get(shared)
    for task in batch.to_pylist():
        for first, table in _read(task):
            check(table, task["path"])
            train = split[first : first + len(table)] == 0
            found = [_moments(table.column(name).to_numpy()[train]) for name in NAMES]
            count, mean, apart = (list(values) for values in zip(*found, strict=True))
            yield pa.table({"count": [count], "mean": [mean], "apart": [apart], "rows": [int(train.sum())]})


def _moments(values: npt.NDArray[Any]) -> tuple[int, float, float]:
    values = values.astype(np.float64, copy=False)
    values = values[~np.isnan(values)]
    mean = float(values.mean()) if len(values) else 0.0
    return len(values), mean, float(np.square(values - mean).sum())


def check(table: pa.Table, path: str) -> None:
    """Check every column: its type, missing values, limits, allowed values and lengths.

    Raises:
        ValueError: A column breaks its declaration.
    """
    if table.schema.remove_metadata() != schema():
        raise ValueError(f"{path}: the columns are {table.schema}, not those declared")
    for name in table.column_names:
        column = table.column(name)
        if column.null_count > MAX_NULLS * len(table) or (column.null_count and name not in MISSING):
            raise ValueError(f"{path}: column {name} misses {column.null_count} of {len(table)} values")
        if name in LIMITS:
            low, high = LIMITS[name]
            found = pc.min_max(column).as_py()
            if found["min"] < low or found["max"] > high:
                raise ValueError(f"{path}: column {name} has values beyond {low} to {high}: {found}")
            if pa.types.is_floating(column.type) and not pc.all(pc.is_finite(column)).as_py():
                raise ValueError(f"{path}: column {name} holds values that are not finite")
        elif name in VALUES:
            known = pc.is_in(column, value_set=pa.array([*VALUES[name], None], pa.string()))
            if not pc.all(known).as_py():
                raise ValueError(f"{path}: column {name} has values that are not allowed")
        elif name in LENGTHS and pc.max(pc.utf8_length(column)).as_py() > LENGTHS[name]:
            raise ValueError(f"{path}: column {name} has texts of more than {LENGTHS[name]} characters")
    if pc.min(table.column("customer")).as_py() < 0:
        raise ValueError(f"{path}: column customer has values below 0")


# -- the third pass: prepare and write ----------------------------------------


def _prepare(
    batch: pa.Table, shared: Any, mean: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]
) -> Iterator[pa.Table]:
    split = ray.get(shared)
    for task in batch.to_pylist():
        for first, table in _read(task):
            features = np.empty((len(table), len(NAMES)), dtype=np.float32)
            for place, name in enumerate(NAMES):
                values = table.column(name).to_numpy()
                filled = np.where(np.isnan(values), mean[place], values) if table.column(name).null_count else values
                features[:, place] = (filled - mean[place]) / scale[place]
            label = pc.index_in(table.column("outcome"), value_set=pa.array(CLASSES)).cast(pa.int64())
            columns = {
                "row_id": pa.array(np.arange(first, first + len(table))),
                "label": label,
                "features": pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), len(NAMES)),
                **{name: table.column(name) for name in table.column_names if name != "outcome"},
                "split": pa.array(SPLITS).take(pa.array(split[first : first + len(table)])),
            }
            yield pa.table(columns)
