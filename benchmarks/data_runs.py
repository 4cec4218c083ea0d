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
    sides = {"throughput": _throughput, "sealing": _sealing, "reading": _reading, "once": _once}[what]
    source = Path(f".bench-rows/{rows}").absolute()
    few = Path(f".bench-rows/{min(rows, WARM_ROWS)}").absolute()
    make_rows(source, rows), make_rows(few, min(rows, WARM_ROWS))
    with data_session(scratch / "home") as session:
        if rounds:
            for side in sides(session, few, scratch / "few").values():
                side()
        for number in range(max(1, rounds)):
            for name, side in sides(session, source, scratch / f"out-{number}").items():
                os.sync()
                started = time.perf_counter()
                counted = side()
                _line(side=name, seconds=time.perf_counter() - started, rows=counted or rows)
            shutil.rmtree(scratch / f"out-{number}", ignore_errors=True)


def _line(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def _throughput(session: DataSession, source: Path, out: Path) -> Sides:
    from benchmarks.ray_by_hand import ingest_by_hand

    paths = sorted(source.glob("*.parquet"))
    return {"peer": lambda: ingest_by_hand(paths, out) and None, "ours": lambda: session.ingest(source) and None}


def _sealing(session: DataSession, source: Path, out: Path) -> Sides:
    from benchmarks.plain_output import plain_output

    def plain() -> None:
        with plain_output():
            session.ingest(source)

    return {"peer": plain, "ours": lambda: session.ingest(source) and None}


def _once(session: DataSession, source: Path, out: Path) -> Sides:
    return {"ours": lambda: session.ingest(source) and None}


_versions: dict[Path, tuple[object, Path]] = {}


def _reading(session: DataSession, source: Path, out: Path) -> Sides:
    """Ingest once and write the same files plain beside; then both are read."""
    from benchmarks.training_reads import plain_copy, read_plain, read_sealed

    if source not in _versions:
        version = session.platform.registry.open(session.ingest(source).id)
        folder = session.platform.settings.home / f"plain-{source.name}"
        plain_copy(version, session.platform.location, folder)
        _versions[source] = (version, folder)
    version, folder = _versions[source]
    return {
        "peer": lambda: read_plain(folder),
        "ours": lambda: read_sealed(version, session.platform.location),
    }


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
