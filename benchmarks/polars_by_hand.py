"""The same ingest as a script of Polars in one process: `python polars_by_hand.py FOLDER OUT`, prints seconds as JSON.

The steps of `ray_by_hand`, on Polars' streaming engine with its own threads, one for each processor: the label column
is read and divided into splits; one pass checks every column and fits on the training split; one pass imputes,
standardizes and writes plain Parquet, three files.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.made_rows import CLASSES, LENGTHS, LIMITS, MAX_NULLS, MISSING, NUMBERS, SEED, SHARES, VALUES

ROW_GROUP_ROWS = 125_000


def main(folder: Path, out: Path) -> int:
    """Run the script; return the number of rows."""
    source = pl.scan_parquet(folder / "*.parquet")
    split = _split(source)
    rows = source.with_columns(split=split).with_row_index("row_id")
    fitted = _checked(rows.select(*_faults(), *_fits()).collect(engine="streaming").row(0, named=True), len(split))
    features = [
        ((pl.col(name).fill_null(fitted[f"{name} mean"]) - fitted[f"{name} mean"]) / fitted[f"{name} std"]).cast(
            pl.Float32
        )
        for name in NUMBERS
    ]
    codes = {name: place for place, name in enumerate(CLASSES)}
    prepared = rows.with_columns(
        pl.col("row_id").cast(pl.Int64),
        label=pl.col("outcome").replace_strict(codes, return_dtype=pl.Int64),
        features=pl.concat_arr(features),
    ).drop("outcome")
    sinks = [
        prepared.filter(pl.col("split") == number)
        .drop("split")
        .sink_parquet(
            out / f"{name}.parquet",
            compression="zstd",
            compression_level=1,
            row_group_size=ROW_GROUP_ROWS,
            mkdir=True,
            lazy=True,
        )
        for number, name in enumerate(SHARES)
    ]
    pl.collect_all(sinks, engine="streaming")
    return len(split)


def _split(source: pl.LazyFrame) -> pl.Series:
    """Return the split of each row: every class has the exact shares, to one row."""
    outcome = source.select(pl.col("outcome").cast(pl.Enum(CLASSES))).collect(engine="streaming").to_series()
    labels = outcome.to_physical().to_numpy()
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=len(CLASSES)))
    out = np.full(len(labels), 2, dtype=np.int8)
    for code, rows in enumerate(np.split(order, ends[:-1])):
        shuffled = np.random.default_rng([SEED, code]).permutation(rows)
        train, validation = round(len(rows) * SHARES["train"]), round(len(rows) * SHARES["validation"])
        out[shuffled[:train]] = 0
        out[shuffled[train : train + validation]] = 1
    return pl.Series("split", out)


def _faults() -> list[pl.Expr]:
    """Return the counts of faults of every column."""
    found = [pl.col(name).null_count().alias(f"{name} nulls") for name in (*NUMBERS, *VALUES, *LENGTHS, "customer")]
    for name, (low, high) in LIMITS.items():
        inside = pl.col(name).is_between(low, high)  # NaN and infinities are not
        found.append((~inside).sum().alias(f"{name} faults"))
    found += [(~pl.col(name).is_in(list(values))).sum().alias(f"{name} faults") for name, values in VALUES.items()]
    found += [(pl.col(name).str.len_chars() > most).sum().alias(f"{name} faults") for name, most in LENGTHS.items()]
    return [*found, (pl.col("customer") < 0).sum().alias("customer faults")]


def _fits() -> list[pl.Expr]:
    train = pl.col("split") == 0
    found: list[pl.Expr] = []
    for name in NUMBERS:
        values = pl.col(name).filter(train).cast(pl.Float64)
        found += [values.mean().alias(f"{name} mean"), values.var(ddof=0).alias(f"{name} var")]
        found.append(values.count().alias(f"{name} count"))
    return [*found, train.sum().alias("train")]


def _checked(found: dict[str, float], rows: int) -> dict[str, float]:
    """Return what was fitted, the deviations after missing values have become the mean.

    Raises:
        ValueError: A column breaks its declaration.
    """
    for name in (*NUMBERS, *VALUES, *LENGTHS, "customer"):
        nulls, faults = found[f"{name} nulls"], found.get(f"{name} faults", 0)
        if faults or nulls > (MAX_NULLS * rows if name in MISSING else 0):
            raise ValueError(f"column {name}: {nulls} missing, {faults} faults")
    std = {f"{name} std": (found[f"{name} var"] * found[f"{name} count"] / found["train"]) ** 0.5 for name in NUMBERS}
    return {**found, **std}


if __name__ == "__main__":
    started = time.perf_counter()
    written = main(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({"rows": written, "seconds": time.perf_counter() - started, "polars": pl.__version__}))
