"""Profiles for tests of the page, each made by the real profiler from rows with a seed."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from PIL import Image

from lightmill.datasets.profiling import Profiler
from lightmill.datasets.verdicts import MISSING, OUT_OF_RANGE, Finding, Tally
from lightmill.records.profile import ProfileRecord
from lightmill.records.quality import ColumnRule

ATTACK = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
LONG = "the_average_of_what_was_measured_over_the_last_ninety_days_in_the_northern_districts_" * 2


def picture(seed: int, size: int = 28) -> bytes:
    """Return a PNG of a coloured ring."""
    across, down = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    ring = np.exp(-(((across**2 + down**2) - 0.2 - 0.05 * (seed % 8)) ** 2) * 30)
    colour = np.array([(seed * 67) % 256, (seed * 131) % 256, (seed * 29 + 90) % 256])
    sink = io.BytesIO()
    Image.fromarray((ring[..., None] * colour).astype(np.uint8)).save(sink, format="PNG")
    return sink.getvalue()


def profiled(name: str, columns: Sequence[ColumnRule], table: pa.Table, tally: Tally | None = None) -> ProfileRecord:
    rows = table.num_rows
    profiler = Profiler(columns)
    split = np.array([0] * 7 + [1] + [2] * 2, dtype=np.int8)[np.arange(rows) % 10]
    return profiler.finish(profiler.of(table, np.arange(rows), split), name, tally)


def people(rows: int = 3000) -> ProfileRecord:
    """Every kind of column, correlated, with gaps, classes, texts, pictures, and one personal column."""
    chance = np.random.default_rng(4)
    age = np.clip(chance.normal(41, 13, rows), 1, 99)
    income = age * 900 + chance.lognormal(9, 0.5, rows)
    height = chance.normal(172, 9, rows)
    columns = (
        ColumnRule(name="age", dtype="float64", max_nulls=0.2),
        ColumnRule(name="income", dtype="float64", max_nulls=0.4),
        ColumnRule(name="height", dtype="float64"),
        ColumnRule(name="weight", dtype="float64"),
        ColumnRule(name="visits", dtype="int64"),
        ColumnRule(name="land", dtype="string", max_nulls=0.1),
        ColumnRule(name="note", dtype="string", role="text"),
        ColumnRule(name="mail", dtype="string", role="key", tags=("email",)),
        ColumnRule(name="scan", dtype="binary", role="image"),
        ColumnRule(name="buys", dtype="string", role="label", values=("no", "maybe", "yes")),
    )
    table = pa.table(
        {
            "age": pa.array(age, mask=chance.random(rows) < 0.08),
            "income": pa.array(income, mask=chance.random(rows) < 0.3),
            "height": height,
            "weight": height * 0.9 - 85 + chance.normal(0, 8, rows),
            "visits": chance.poisson(3, rows),
            "land": pa.array(chance.choice(["DE", "FR", "IT", "PL", "ES"], rows, p=[0.4, 0.3, 0.15, 0.1, 0.05])),
            "note": ["word " * int(n) for n in chance.geometric(0.05, rows)],
            "mail": [f"person{n}@canary.example" for n in range(rows)],
            "scan": [picture(n) for n in range(16)] * (rows // 16) + [picture(n) for n in range(rows % 16)],
            "buys": chance.choice(["no", "maybe", "yes"], rows, p=[0.6, 0.15, 0.25]),
        }
    )
    faults = {(MISSING, "land"): Finding(rows=12, first=3), (OUT_OF_RANGE, "age"): Finding(rows=3, first=9)}
    return profiled("people", columns, table, Tally(rows=rows + 15, faults=faults, clipped={"income": 7}))


def hostile() -> ProfileRecord:
    """Names and values that would be markup, and names of more than a hundred characters."""
    columns = (
        ColumnRule(name=ATTACK, dtype="float64"),
        ColumnRule(name=LONG, dtype="float64"),
        ColumnRule(name=LONG + "2", dtype="string"),
        ColumnRule(name="unbroken" * 30, dtype="string", role="label"),
    )
    rows = 60
    values = {
        ATTACK: np.arange(rows) / 7,
        LONG: np.arange(rows) ** 2 / 3.0,
        LONG + "2": pa.array([None, ATTACK, "x" * 300] * (rows // 3)),
        "unbroken" * 30: [ATTACK, "W" * 200] * (rows // 2),
    }
    return profiled(ATTACK, columns, pa.table(values))


def wide(columns: int = 200, rows: int = 100) -> ProfileRecord:
    """Many numeric columns, a few of them constant."""
    chance = np.random.default_rng(1)
    base = chance.normal(size=(rows, 4))
    rules = tuple(ColumnRule(name=f"column_{n:03d}", dtype="float64") for n in range(columns))
    values = {
        rule.name: base[:, n % 4] * (n % 5) + chance.normal(size=rows) * (0 if n % 5 == 0 else 1)
        for n, rule in enumerate(rules)
    }
    return profiled("wide", rules, pa.table(values))


def few(rows: int) -> ProfileRecord:
    """No row, or one."""
    columns = (
        ColumnRule(name="x", dtype="float64", max_nulls=1.0),
        ColumnRule(name="y", dtype="float64"),
        ColumnRule(name="t", dtype="string", role="text"),
        ColumnRule(name="kind", dtype="string", role="label"),
    )
    table = pa.table(
        {
            "x": pa.array([None] * rows, pa.float64()),
            "y": pa.array([1.5] * rows, pa.float64()),
            "t": pa.array(["one"] * rows, pa.string()),
            "kind": pa.array(["a"] * rows, pa.string()),
        }
    )
    return profiled("few", columns, table)
