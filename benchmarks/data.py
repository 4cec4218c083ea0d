"""Ingest and reading of made-up rows: speed against pipelines written by hand, memory, and what sealing costs.

Sizes: `LIGHTMILL_BENCH_ROWS` rows (20 million by default, 2 million with `--quick`) and a tenth of that. The rows stay
in `.bench-rows` for the next benchmark. Both sides of a figure run in turn in one Ray session with the platform's
settings, so that neither pays for Ray's start.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figures import figure, note
from benchmarks.made_rows import make_rows
from benchmarks.memory_of import PeakMemory

ROWS = int(os.environ.get("LIGHTMILL_BENCH_ROWS") or (2_000_000 if "--quick" in sys.argv else 20_000_000))
TENTH = ROWS // 10
MARK = "BENCH_RUN"
FOLDER = Path(__file__).parents[1]

Times = dict[str, list[float]]


def throughput() -> None:
    """Rows a second of our ingest over a Ray Data pipeline and a Polars script, both written by hand."""
    for rows, rounds in ((TENTH, 3), (ROWS, 1)):
        speeds = _speeds("throughput", rows, rounds)
        figure("ingest_throughput", "rows/s", speeds["ours"], speeds["peer"], **_at_least(0.85), rows=rows)
        polars = _polars(rows, rounds)
        if polars:
            figure("ingest_throughput_vs_polars", "rows/s", speeds["ours"], polars, rows=rows)


def sealing() -> None:
    """How much longer our ingest takes than the same ingest with plain files out."""
    for rows, rounds in ((TENTH, 5), (ROWS, 1)):
        times = _times("sealing", rows, rounds)
        figure(
            "ingest_sealing",
            "s",
            [one for one, _ in times["ours"]],
            [one for one, _ in times["peer"]],
            goal="<= 1.08",
            holds=lambda ratio: ratio <= 1.08,
            rows=rows,
        )


def memory() -> None:
    """Peak memory of all processes of an ingest, Ray's own among them, with ten times the rows over that with one."""
    peaks = {}
    for rows in (TENTH, ROWS):
        make_rows(FOLDER / f".bench-rows/{rows}", rows)
        mark = secrets.token_hex(8)
        with PeakMemory(f"{MARK}={mark}") as watched:
            _times("once", rows, 0, mark)
        peaks[rows] = watched.peak_bytes / (1 << 20)
        note(f"  {rows:,} rows: {peaks[rows]:.0f} MiB, {watched.samples} samples, {watched.processes} processes")
    figure(
        "ingest_memory",
        "MiB",
        [peaks[ROWS]],
        [peaks[TENTH]],
        goal="<= 1.2",
        holds=lambda ratio: ratio <= 1.2,
        rows=[ROWS, TENTH],
        measured_by="largest sum of PSS of all processes of the run, driver and Ray included",
    )


def reading() -> None:
    """Rows a second that one training worker gets of a sealed version, over plain Parquet through Ray Data."""
    for rows, rounds in ((TENTH, 5), (ROWS, 3)):
        speeds = _speeds("reading", rows, rounds)
        figure("read_for_training", "rows/s", speeds["ours"], speeds["peer"], **_at_least(0.9), rows=rows)


def _at_least(least: float) -> dict[str, object]:
    return {"goal": f">= {least:g}", "holds": lambda ratio: ratio >= least}


def _speeds(what: str, rows: int, rounds: int) -> Times:
    return {side: [n / s for s, n in runs] for side, runs in _times(what, rows, rounds).items()}


def _times(what: str, rows: int, rounds: int, mark: str = "") -> dict[str, list[tuple[float, int]]]:
    """Return (seconds, rows) of each run by side."""
    found: dict[str, list[tuple[float, int]]] = {}

    def take(line: dict[str, object]) -> None:
        found.setdefault(str(line["side"]), []).append((float(str(line["seconds"])), int(str(line["rows"]))))
        note(f"  {rows:,} rows, {line['side']}: {line['seconds']:.2f} s")

    with _scratch() as scratch:
        arguments = ["-m", "benchmarks.data_runs", what, str(rows), str(rounds), str(scratch)]
        _run(arguments, scratch / "log.txt", take, {MARK: mark})
    return found


def _polars(rows: int, rounds: int) -> list[float]:
    """Return the rows a second of the Polars script; none where Polars is not installed."""
    found: list[float] = []
    try:
        import polars  # noqa: F401
    except ImportError:
        note("  ingest_throughput_vs_polars is left out: pip install polars")
        return found
    for _ in range(rounds):
        with _scratch() as scratch:
            arguments = ["-m", "benchmarks.polars_by_hand", f".bench-rows/{rows}", str(scratch / "out")]
            _run(arguments, scratch / "log.txt", lambda line: found.append(rows / float(str(line["seconds"]))), {})
            note(f"  {rows:,} rows, Polars: {rows / found[-1]:.2f} s")
    return found


def _run(
    arguments: list[str], log: Path, take: Callable[[dict[str, object]], None], environment: dict[str, str]
) -> None:
    """Run a Python module, and take each JSON line that it prints; what else it says goes to `log`."""
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=FOLDER,
            env=os.environ | {"PYTHONPATH": path} | environment,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        assert process.stdout
        for line in process.stdout:
            if line.startswith("{"):
                take(json.loads(line))
    if process.wait():
        raise SystemExit(f"{' '.join(arguments[:3])} ended with {process.returncode}:\n{log.read_text()[-4000:]}")


@contextmanager
def _scratch() -> Iterator[Path]:
    """Make a folder on this checkout's disk (not in memory), and remove it."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=FOLDER) as folder:
        yield Path(folder)
