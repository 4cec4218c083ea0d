"""One way to read all formats on a real Ray: two workers share one file, and row ids stay what they are."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lightmill.datasets.passes import RESULT, WorkSource
from lightmill.datasets.sources import combine
from lightmill.records.sources import UnionSpec
from tests.unit.datasets.sources.reading import at, source

ROWS = 20_000


def as_rows(blocks: Iterator[pa.Table], number: int) -> list[dict[str, Any]]:
    return [row for block in blocks for row in block.to_pylist()]


@pytest.mark.slow
@pytest.mark.integration
def test_parts_of_one_file_are_read_by_several_tasks_with_the_same_row_ids(tmp_path: Path) -> None:
    import ray
    import ray.data

    lines = [f"{n},t{n}" if n % 1000 else "bad" for n in range(ROWS)]
    (tmp_path / "d.csv").write_text("a,b\n" + "\n".join(lines) + "\n")
    (tmp_path / "e.jsonl").write_text('{"b":"z","a":7}\n')
    columns = {"a": pa.int64(), "b": pa.string()}
    both = combine(
        [
            source(tmp_path, columns, path="d.csv", part_bytes=50_000),
            source(tmp_path, columns, format="jsonl", path="e.jsonl"),
        ],
        UnionSpec(),
    )
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        work = WorkSource("rows", both, {n: [part] for n, part in enumerate(both.parts())}, as_rows)
        told = ray.data.read_datasource(work, override_num_blocks=len(both.parts())).take_all()
        rows = sorted((row for one in told for row in pickle.loads(one[RESULT])), key=lambda row: row["row_id"])
    finally:
        ray.shutdown()
    assert len(both.parts()) > 4
    assert [row["row_id"] for row in rows] == [*range(ROWS), at(1, 0)]
    assert [row["row_id"] for row in rows if row["bad_row"]] == list(range(0, ROWS, 1000))
    assert all(row["a"] == row["row_id"] for row in rows[:-1] if not row["bad_row"])


READ = """
import sys, resource
from pathlib import Path
from typing import Any
import pyarrow as pa
from lightmill.datasets.sources import open_source
from lightmill.records.sources import CsvSpec
pa.set_cpu_count(2)
found = open_source(CsvSpec(path=sys.argv[2]), Path(sys.argv[1]), {"a": pa.float64()})
rows = sum(len(chunk.rows) for part in found.parts() for chunk in found.read(part))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    line = b"1.25,some text that is not read at all,and more\n"
    peaks = []
    for name, megabytes in (("small.csv", 64), ("large.csv", 640)):
        rows = (megabytes << 20) // len(line)
        with (tmp_path / name).open("wb") as out:
            out.write(b"a,b,c\n")
            for _ in range(rows // 10_000):
                out.write(line * 10_000)
        done = subprocess.run(
            [sys.executable, "-c", READ, str(tmp_path), name], capture_output=True, text=True, check=True
        )
        count, peak = map(int, done.stdout.split())
        assert count == rows // 10_000 * 10_000
        peaks.append(peak)
    print(f"peak memory of 64 MiB and 640 MiB of CSV: {peaks[0] >> 10} and {peaks[1] >> 10} MiB")
    assert peaks[1] < 1.2 * peaks[0]
