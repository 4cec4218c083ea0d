"""`make bench`: all benchmarks, or those named as arguments."""

from __future__ import annotations

import sys

from benchmarks import catalog_scale, first_prediction, serve_small, train_overhead
from benchmarks.figures import note

BENCHMARKS = {
    "first_prediction": first_prediction.main,
    "train_overhead": train_overhead.main,
    "serve_small": serve_small.main,
    "catalog_scale": catalog_scale.main,
}


def main() -> int:
    """Run benchmarks by name."""
    names = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        note(f"There is no benchmark {unknown[0]!r}; choose from {', '.join(BENCHMARKS)}.")
        return 2
    for name in names:
        note(f"benchmark {name} ...")
        BENCHMARKS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
