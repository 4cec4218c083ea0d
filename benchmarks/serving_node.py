"""A node more of a platform's Ray on this machine; `ray start` joins none where Ray takes the machine for a laptop.

Run: serving_node.py ADDRESS CPUS, with the environment of a node. It ends with its input.
"""

from __future__ import annotations

import sys

from ray._private.node import Node
from ray._private.parameter import RayParams

from tests.platforms import free_ports

AGENTS = ("metrics_agent_port", "dashboard_agent_listen_port", "metrics_export_port", "runtime_env_agent_port")
"""Ports that are given, so that two nodes of one machine do not look for the same."""


def main() -> None:
    """Join, as `ray.cluster_utils` adds nodes, and stay."""
    node = Node(
        RayParams(
            gcs_address=sys.argv[1],
            node_ip_address="127.0.0.1",
            num_cpus=int(sys.argv[2]),
            num_gpus=0,
            object_store_memory=200_000_000,
            include_log_monitor=False,
            node_manager_port=0,
            min_worker_port=0,
            max_worker_port=0,
            **dict(zip(AGENTS, free_ports(len(AGENTS)), strict=True)),
        ),
        head=False,
        shutdown_at_exit=True,
        spawn_reaper=False,
    )
    sys.stdin.read()
    node.kill_all_processes(check_alive=False, allow_graceful=True)


if __name__ == "__main__":
    main()
