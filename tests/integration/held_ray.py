"""Holds a Ray open for job files to join, as `lightmill up` does, without the rest of a platform.

Run: python -m tests.integration.held_ray HOME CPUS; it prints the address, and ends with its standard input. Ports of
Ray's agents are given, so that its start does not wait for them: on a busy machine they take longer than it waits.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lightmill.settings import Settings
from tests.platforms import BIN, free_ports

AGENTS = ("dashboard-agent-grpc-port", "dashboard-agent-listen-port", "metrics-export-port", "runtime-env-agent-port")


def main() -> None:
    os.environ.update(Settings(home=Path(sys.argv[1])).node_environment())
    port, *agents = free_ports(1 + len(AGENTS))
    address = f"127.0.0.1:{port}"
    command = [
        str(BIN / "ray"),
        "start",
        "--head",
        "--block",
        "--include-dashboard=false",
        "--node-ip-address=127.0.0.1",
        f"--port={port}",
        f"--num-cpus={sys.argv[2]}",
        *(f"--{name}={number}" for name, number in zip(AGENTS, agents, strict=True)),
    ]
    ray = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
    assert ray.stdout is not None
    try:
        started = any("Ray runtime started" in line for line in ray.stdout)
        print(address if started else "", flush=True)
        sys.stdin.read()
    finally:
        ray.terminate()
        ray.wait(timeout=60)


if __name__ == "__main__":
    main()
