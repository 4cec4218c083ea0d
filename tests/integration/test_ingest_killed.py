"""A job that is killed while it ingests: whoever runs it again gets the same version, and repeats nothing finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.conftest import Tally
from tests.platforms import BIN, ROOT, TestPlatform, temporary_platform

pytestmark = [pytest.mark.integration, pytest.mark.slow]
KILLS = 20
PIECES = 15  # a job puts one for each file into the journal in each of three passes, and the digests of sources
FILES, ROWS, COLUMNS = 5, 125_000, 18
SPEC: dict[str, Any] = {
    "name": "killed",
    "source": {"format": "parquet", "path": "rows"},
    "columns": [
        {"name": f"x{{0..{COLUMNS - 1}}}", "dtype": "float64", "max_nulls": 0.2},
        {"name": "kind", "dtype": "string", "values": ["a", "b", "c"]},
        {"name": "label", "dtype": "int64", "role": "label", "values": [0, 1]},
    ],
    "rules": {"out_of_range": "quarantine", "duplicates": "drop"},
    "split": {"by": "stratified", "seed": 5},
    "prepare": [
        {"step": "impute", "columns": [f"x{n}" for n in range(COLUMNS)], "with": "mean"},
        {"step": "standardize", "columns": [f"x{n}" for n in range(COLUMNS)]},
        {"step": "one_hot", "columns": ["kind"]},
    ],
}


def write_rows(folder: Path) -> None:
    """Write five files of some 18 MiB, each a task of its own; a few rows are out of range, a few come twice."""
    folder.mkdir()
    chance = np.random.default_rng(7)
    for number in range(FILES):
        values = chance.normal(size=(COLUMNS, ROWS))
        values[0, ::97] = np.nan
        columns: dict[str, Any] = {f"x{n}": pa.array(column, from_pandas=True) for n, column in enumerate(values)}
        kinds = chance.choice(["a", "b", "c"], ROWS).astype(object)
        kinds[::50_000] = "z"
        label = chance.integers(0, 2, ROWS)
        table = pa.table(columns | {"kind": pa.array(kinds), "label": label})
        table = pa.concat_tables([table, table.slice(3, 4)])
        pq.write_table(table, folder / f"{number}.parquet", compression="none", row_group_size=len(table))


def begun(platform: TestPlatform, spec: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / "python"), "jobs/ingest.py", str(spec)],
        env=platform.environment,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    return json.loads(out.strip().splitlines()[-1]), out


def test_whoever_runs_a_killed_job_again_gets_the_same_version(tmp_path: Path, tally: Tally) -> None:
    write_rows(tmp_path / "rows")
    path = tmp_path / "killed.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    chance = Random(1)
    with temporary_platform() as platform:
        platform.lightmill("up")
        first, _ = finished(begun(platform, path))
        kept = FILES * ROWS - FILES * -(-ROWS // 50_000)
        assert first["profile"]["rows_kept"] == kept
        assert first["profile"]["dropped"] == {"duplicate row": 4 * FILES}
        resumed = 0
        for _ in range(KILLS):
            process = begun(platform, path)
            wait_for_pieces(process, platform.home / "ingest", chance.randrange(PIECES))
            time.sleep(chance.uniform(0.0, 0.8))
            killed = process.poll() is None
            if killed:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            again, said = finished(begun(platform, path)) if killed else ended(process)
            took_up = "pieces were done" in said
            resumed += took_up
            tally("jobs killed while they ingested", int(killed))
            tally("reruns that took up finished work", int(took_up))
            assert again["content_digest"] == first["content_digest"]
            assert again["profile"] == first["profile"]
        assert resumed >= KILLS // 2, "most kills come after something was finished"
        assert not list((platform.home / "ingest").glob("*.journal"))


def wait_for_pieces(process: subprocess.Popen[str], folder: Path, pieces: int) -> None:
    """Return when so many pieces of work are in the journal, however fast the machine is, or the job has ended."""
    seen, size = 0, 0
    while seen < pieces and process.poll() is None:
        now = sum(path.stat().st_size for path in folder.glob("*.journal"))
        seen, size = seen + int(now > size > 0), max(now, size)
        time.sleep(0.002)


def ended(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    out = process.stdout.read() if process.stdout else ""
    return json.loads(out.strip().splitlines()[-1]), out
