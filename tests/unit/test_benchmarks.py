"""What the data benchmarks stand on: rows that are the same ever, checks that see faults, memory that is counted."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.made_rows import CLASSES, MISSING, UNIT_ROWS, schema, specification, tables
from benchmarks.memory_of import PeakMemory, pss_bytes
from benchmarks.plain_output import write_plain
from lightmill.datasets.expectations import Judge
from lightmill.datasets.verdicts import KEPT
from lightmill.records.dataset_spec import DatasetSpec

ROWS = UNIT_ROWS + 1000


@pytest.fixture(scope="module")
def made() -> pa.Table:
    return pa.concat_tables(tables(0, 2, ROWS))


def test_a_row_depends_on_its_number_alone(made: pa.Table) -> None:
    (alone,) = tables(1, 2, 2 * UNIT_ROWS)
    assert made.num_rows == ROWS
    assert made.schema == schema()
    assert made.slice(UNIT_ROWS).equals(alone.slice(0, 1000))
    assert set(made.column("outcome").to_pylist()) == set(CLASSES)
    nulls = {name for name in made.column_names if made.column(name).null_count}
    assert nulls == set(MISSING)


def test_the_rows_hold_to_their_specification_and_both_checks_see_faults(made: pa.Table) -> None:
    by_hand = pytest.importorskip("benchmarks.ray_by_hand")
    spec = DatasetSpec.model_validate(specification(Path("rows")))
    assert spec.plain
    judge = Judge(spec.columns, spec.rules)
    assert (judge.judge(made).verdict == KEPT).all()
    by_hand.check(made, "rows")
    faults = {"amount": -1.0, "rate": float("inf"), "country": "XX", "note": "x" * 81, "age": None, "customer": -1}
    for name, fault in faults.items():
        place = made.schema.get_field_index(name)
        one = pa.array([fault, *made.column(name).slice(1, 999).to_pylist()], made.schema.field(name).type)
        wrong = made.slice(0, 1000).set_column(place, made.schema.field(name), one)
        assert judge.judge(wrong).verdict[0] != KEPT
        with pytest.raises(ValueError, match=name):
            by_hand.check(wrong, "rows")


def test_plain_output_is_the_same_table(made: pa.Table) -> None:
    data = write_plain(made.slice(0, 1000), lambda _: b"")
    assert pq.read_table(io.BytesIO(data)).equals(made.slice(0, 1000))


def test_memory_is_that_of_the_processes_with_the_mark() -> None:
    holds = "import sys, time; x = bytearray(b'1') * (64 << 20); print('ready', flush=True); time.sleep(600)"
    environment = os.environ | {"BENCH_TEST": "here"}
    with PeakMemory("BENCH_TEST=here") as watched:
        process = subprocess.Popen([sys.executable, "-c", holds], env=environment, stdout=subprocess.PIPE)
        try:
            assert process.stdout and process.stdout.readline()
            while not watched.samples or watched.peak_bytes < 64 << 20:
                assert process.poll() is None
                time.sleep(0.01)
            assert 64 << 20 <= pss_bytes(process.pid) < 128 << 20
        finally:
            process.kill()
            process.communicate()
    assert watched.processes == 1
    assert watched.peak_bytes < 128 << 20
    assert pss_bytes(process.pid) == 0
