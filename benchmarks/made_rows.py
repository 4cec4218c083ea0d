"""Made-up rows for the data benchmarks: 20 columns of numbers, categories and short texts, with missing values.

Rows come in units of `UNIT_ROWS`, each drawn whole from a generator of its own, (seed, number of the unit). So a row
depends on the seed and its number alone: not on how many rows are asked for, how they are divided into files, or how
many processes draw them. 20 million rows are about 2 GB of Parquet.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute as pc

UNIT_ROWS = 125_000
FILES = 16
SEED = 4
CLASSES = ("kept", "returned", "lost", "disputed", "cancelled")
COUNTRIES = tuple(f"{a}{b}" for a in "ABDEF" for b in "ELNRST")
CHANNELS = ("web", "app", "store", "phone")
PLANS = ("free", "basic", "plus", "family", "team", "company")
DEVICES = tuple(f"{maker} {size}" for maker in ("ax", "brio", "corvo") for size in (1, 2, 3, 4))
NUMBERS = {
    "amount": "float64",
    "balance": "float64",
    "rate": "float64",
    "score": "float64",
    "distance": "float64",
    "latitude": "float64",
    "longitude": "float64",
    "temperature": "float32",
    "humidity": "float32",
    "age": "int64",
    "visits": "int64",
    "seconds": "int64",
}
MISSING = {
    "amount": 0.02,
    "balance": 0.05,
    "score": 0.02,
    "temperature": 0.1,
    "visits": 0.02,
    "plan": 0.03,
    "note": 0.1,
}
LIMITS = {
    "amount": (0, 1e7),
    "balance": (-1e6, 1e6),
    "rate": (0, 1),
    "score": (-20, 20),
    "distance": (0, 1e6),
    "latitude": (-90, 90),
    "longitude": (-180, 180),
    "temperature": (-90, 90),
    "humidity": (0, 100),
    "age": (18, 99),
    "visits": (0, 10_000),
    "seconds": (1, 1_000_000),
}
VALUES = {"country": COUNTRIES, "channel": CHANNELS, "plan": PLANS, "device": DEVICES}
LENGTHS = {"city": 40, "note": 80}
MAX_NULLS = 0.2
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def specification(folder: Path) -> dict[str, object]:
    """Return `dataset.yaml` for the rows in `folder`: every column checked, numbers imputed and standardized."""
    columns: list[dict[str, object]] = [
        {"name": name, "dtype": dtype, "minimum": LIMITS[name][0], "maximum": LIMITS[name][1], **_nulls(name)}
        for name, dtype in NUMBERS.items()
    ]
    columns += [
        {"name": name, "dtype": "string", "role": "key", "values": list(values), **_nulls(name)}
        for name, values in VALUES.items()
    ]
    columns += [
        {"name": name, "dtype": "string", "role": "text", "max_length": most, **_nulls(name)}
        for name, most in LENGTHS.items()
    ]
    columns.append({"name": "customer", "dtype": "int64", "role": "key", "minimum": 0})
    columns.append({"name": "outcome", "dtype": "string", "role": "label", "values": list(CLASSES)})
    return {
        "name": "made",
        "source": {"format": "parquet", "path": str(folder)},
        "columns": columns,
        "rules": {"duplicates": "keep"},
        "split": {"by": "stratified", "seed": SEED, **SHARES},
        "prepare": [{"step": "impute", "with": "mean"}, {"step": "standardize"}],
    }


def _nulls(name: str) -> dict[str, object]:
    return {"max_nulls": MAX_NULLS} if name in MISSING else {}


def make_rows(folder: Path, rows: int, *, files: int = FILES) -> list[Path]:
    """Write rows as Parquet files of about equal size, a row group for each unit; return the paths in order.

    Files of the same rows that an earlier run left are kept.
    """
    units = -(-rows // UNIT_ROWS)
    files = min(files, units)
    asked = {"rows": rows, "files": files, "seed": SEED, "unit": UNIT_ROWS}
    paths = [folder / f"part-{number:03d}.parquet" for number in range(files)]
    done = folder.parent / f"{folder.name}.json"
    if done.exists() and json.loads(done.read_text()) == asked and all(path.exists() for path in paths):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*"):
        path.unlink()
    bounds = [units * number // files for number in range(files + 1)]
    work = [(path, bounds[number], bounds[number + 1], rows) for number, path in enumerate(paths)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as processes:
        list(processes.map(_write, work))
    done.write_text(json.dumps(asked))
    return paths


def _write(work: tuple[Path, int, int, int]) -> None:
    path, first, last, rows = work
    with pq.ParquetWriter(path, schema(), compression="snappy") as writer:
        for table in tables(first, last, rows):
            writer.write_table(table)


def schema() -> pa.Schema:
    """Return the columns and their types."""
    texts = {name: pa.string() for name in (*VALUES, *LENGTHS)}
    numbers = {name: getattr(pa, dtype)() for name, dtype in NUMBERS.items()}
    return pa.schema({**numbers, **texts, "customer": pa.int64(), "outcome": pa.string()})


def tables(first: int, last: int, rows: int, seed: int = SEED) -> Iterator[pa.Table]:
    """Yield the units `first` to `last` (exclusive), the last one of all cut off at `rows`."""
    for unit in range(first, last):
        yield _unit(unit, seed).slice(0, min(UNIT_ROWS, rows - unit * UNIT_ROWS))


def _unit(unit: int, seed: int) -> pa.Table:
    random = np.random.Generator(np.random.PCG64([seed, unit]))
    columns = {**_numbers(random), **_categories(random), **_texts(random)}
    columns["customer"] = pa.array(random.integers(0, 5_000_000, UNIT_ROWS))
    columns["outcome"] = _chosen(random, CLASSES, np.array([0.6, 0.2, 0.1, 0.07, 0.03]))
    for name, share in MISSING.items():
        absent = pa.array(random.random(UNIT_ROWS) < share)
        columns[name] = pc.if_else(absent, pa.scalar(None, columns[name].type), columns[name])
    return pa.table(columns).select(schema().names).cast(schema())


def _numbers(random: np.random.Generator) -> dict[str, pa.Array]:
    n = UNIT_ROWS
    found = {
        "amount": np.minimum(random.lognormal(4, 1.2, n), 9e6).round(2),
        "balance": np.clip(random.normal(500, 4000, n), -9e5, 9e5).round(2),
        "rate": random.random(n),
        "score": random.normal(0, 1, n),
        "distance": np.minimum(random.exponential(120, n), 9e5),
        "latitude": random.uniform(-60, 70, n).round(4),
        "longitude": random.uniform(-180, 180, n).round(4),
        "temperature": np.clip(random.normal(12, 9, n), -80, 80).astype(np.float32),
        "humidity": (random.beta(4, 2, n) * 100).astype(np.float32),
        "age": random.integers(18, 100, n),
        "visits": random.poisson(7, n),
        "seconds": np.minimum(random.geometric(1 / 400, n), 900_000),
    }
    return {name: pa.array(values) for name, values in found.items()}


def _categories(random: np.random.Generator) -> dict[str, pa.Array]:
    found: dict[str, pa.Array] = {}
    for name, values in VALUES.items():
        weights = 1.0 / np.arange(1, len(values) + 1)
        found[name] = _chosen(random, values, weights / weights.sum())
    return found


def _texts(random: np.random.Generator) -> dict[str, pa.Array]:
    words = pa.array(_words(2000))
    several = [words.take(pa.array(_skewed(random, len(words)))) for _ in range(5)]
    ends = pa.array(["burg", "ford", "ton", "villa", "stad", "haven", "mont", "polis"])
    city = [words.take(pa.array(_skewed(random, 400))), ends.take(pa.array(random.integers(0, len(ends), UNIT_ROWS)))]
    return {"city": pc.binary_join_element_wise(*city, ""), "note": pc.binary_join_element_wise(*several, " ")}


def _words(count: int) -> list[str]:
    """Return made-up words of two or three syllables, the same ever."""
    random = np.random.Generator(np.random.PCG64(0))
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "ar", "en")]
    lengths = random.integers(2, 4, count)
    return ["".join(syllables[i] for i in random.integers(0, len(syllables), n)) for n in lengths]


def _skewed(random: np.random.Generator, count: int) -> np.ndarray:
    """Return int64 [UNIT_ROWS] below `count`, small numbers more often."""
    return (random.random(UNIT_ROWS) ** 2 * count).astype(np.int64)


def _chosen(random: np.random.Generator, values: tuple[str, ...], shares: np.ndarray) -> pa.Array:
    places = np.minimum(np.searchsorted(np.cumsum(shares), random.random(UNIT_ROWS)), len(values) - 1)
    return pa.array(values).take(pa.array(places))
