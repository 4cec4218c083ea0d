"""Serve's internal transport of a replica, kept off the network on a platform of one machine.

Ray 2.60 opens a gRPC port in every replica for calls between deployments, on all interfaces and without
authentication (ray/serve/_private/replica.py, `_on_initialized`); nothing configures its address. The
constructor of a deployment runs before that port is opened, so the address can be replaced in time. The
test of open ports fails if an upgrade of Ray makes this obsolete.
"""

from __future__ import annotations

from typing import Any

ANY_ADDRESS = "[::]:0"
LOOPBACK_ADDRESS = "127.0.0.1:0"


def keep_transport_private(loopback: bool) -> None:
    """Make this replica's transport listen on loopback, if the platform does; call it in a constructor."""
    if not loopback:
        return
    from ray.serve._private import replica

    original = replica.add_port_to_grpc_server  # pyright: ignore[reportPrivateImportUsage]

    def add_port(server: Any, address: str) -> int:
        return original(server, LOOPBACK_ADDRESS if address == ANY_ADDRESS else address)

    replica.add_port_to_grpc_server = add_port  # pyright: ignore[reportPrivateImportUsage]
