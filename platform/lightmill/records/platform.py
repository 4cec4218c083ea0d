"""How a platform is."""

from __future__ import annotations

from lightmill.records.base import Record


class PlatformStatus(Record):
    """How the platform is: its version, the cluster's logical resources (total and free), counts.

    `grpc` is where gRPC clients find it, as `host:port`, and empty where it has no such port.
    """

    version: str
    store: str
    resources: dict[str, float]
    free: dict[str, float]
    nodes: int
    models: int
    datasets: int
    endpoints: dict[str, int]
    jobs_running: int
    grpc: str = ""
