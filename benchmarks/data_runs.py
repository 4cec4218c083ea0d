"""What the data benchmarks time, in a process of its own that holds one Ray session; a JSON line for each run.

    python -m benchmarks.data_runs WHAT ROWS ROUNDS SCRATCH

WHAT is `throughput`, `sealing`, `reading` or `once`. Sides take turns, after a round on fewer rows that starts the
workers and does not count; what earlier runs wrote is on the disk before the next begins.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.data_session import DataSession, data_session
from benchmarks.made_rows import make_rows

WARM_ROWS = 1_000_000  # as many files as the platform's Ray has logical CPUs
Sides = dict[str, Callable[[], object]]


def main(what: str, rows: int, rounds: int, scratch: Path) -> None:
    """Run the sides of a benchmark in turn, and print seconds of each."""
    source = Path(f".bench-rows/{rows}").absolute()
    few = Path(f".bench-rows/{min(rows, WARM_ROWS)}").absolute()
    make_rows(source, rows), make_rows(few, min(rows, WARM_ROWS))
    with data_session(scratch / "home") as session:
        if what == "reading":
            _read(session, source, rounds, scratch / "plain")
            return
        sides = {"throughput": _throughput, "sealing": _sealing, "once": _once}[what]
        if rounds:
            for side in sides(session, few, scratch / "few").values():
                side()
        for number in range(max(1, rounds)):
            for name, side in sides(session, source, scratch / f"out-{number}").items():
                os.sync()
                started = time.perf_counter()
                side()
                _line(side=name, seconds=time.perf_counter() - started, rows=rows)
            shutil.rmtree(scratch / f"out-{number}", ignore_errors=True)


def _line(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def _throughput(session: DataSession, source: Path, out: Path) -> Sides:
    from benchmarks.ray_by_hand import ingest_by_hand

    paths = sorted(source.glob("*.parquet"))
    return {"peer": lambda: ingest_by_hand(paths, out), "ours": lambda: session.ingest(source)}


def _sealing(session: DataSession, source: Path, out: Path) -> Sides:
    from benchmarks.plain_output import plain_output

    def plain() -> None:
        with plain_output():
            session.ingest(source)

    return {"peer": plain, "ours": lambda: session.ingest(source)}


def _once(session: DataSession, source: Path, out: Path) -> Sides:
    return {"ours": lambda: session.ingest(source)}


def _read(session: DataSession, source: Path, rounds: int, plain: Path) -> None:
    """Ingest, write the same files plain beside, and read both in turn."""
    from benchmarks.training_reads import plain_copy, readers

    version = session.platform.registry.open(session.ingest(source).id)
    plain_copy(version, session.platform.location, plain)
    sides = readers(version, session.platform.location, plain)
    for reader in sides.values():
        reader.epoch()
    for _ in range(rounds):
        for name, reader in sides.items():
            rows, seconds = reader.epoch()
            _line(side=name, seconds=seconds, rows=rows)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
