"""How a platform is."""

from __future__ import annotations

from lightmill.records.base import Record


class PlatformStatus(Record):
    """How the platform is: its version, the cluster's logical resources (total and free), counts."""

    version: str
    store: str
    resources: dict[str, float]
    free: dict[str, float]
    nodes: int
    models: int
    datasets: int
    endpoints: dict[str, int]
    jobs_running: int
