"""Holds a Ray open for job files to join, as `lightmill up` does, without the rest of a platform.

Run: python -m tests.integration.held_ray HOME CPUS; it prints the address, and ends with its standard input.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lightmill.settings import Settings


def main() -> None:
    settings = Settings(home=Path(sys.argv[1]))
    os.environ.update(settings.node_environment())
    import ray

    ray.init(address="local", num_cpus=int(sys.argv[2]), include_dashboard=False, namespace="lightmill")
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
