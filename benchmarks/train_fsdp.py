"""Our sharded training against FSDP2 written by hand: a decoder of 10 million parameters, two workers of one thread.

Same network, rows and batches, in turns in the same processes, from taking a batch's rows to the optimizer's step.
"""

from __future__ import annotations

import json
import os
import subprocess

from benchmarks.figures import figure
from tests.platforms import BIN, ROOT

GOAL = 0.95
TURNS = 10
STEPS = 4


def main() -> None:
    """Print `fsdp_overhead`."""
    command = [BIN / "torchrun", "--standalone", "--nproc-per-node=2", "-m", "benchmarks.fsdp_turns"]
    done = subprocess.run(
        [*map(str, command), str(TURNS), str(STEPS)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    speeds = json.loads(done.stdout.strip().splitlines()[-1])
    figure(
        "fsdp_overhead",
        "steps/s",
        speeds["ours"],
        speeds["peer"],
        goal=f">= {GOAL}",
        holds=lambda ratio: ratio >= GOAL,
    )


if __name__ == "__main__":
    main()
