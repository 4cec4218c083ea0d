"""What a replica asks Ray for: a bundle for the process that takes requests, and one for each of its ranks."""

from __future__ import annotations

from typing import Any

from lightmill.records.specs import EndpointSpec

DOOR_CPUS = 0.1
"""What the process asks for that takes requests and drives the ranks; `resources` are those of each rank."""
HEALTH_PERIOD_S = 1.0
"""How often Serve asks a divided replica whether it is whole; after three refusals it starts another."""


def deployment_options(spec: EndpointSpec) -> dict[str, Any]:
    """Return the options of a Serve deployment that say where its replicas run.

    The ranks of a replica are placed together with it or not at all, on as few nodes as can be.
    """
    asked = {"CPU": spec.resources.cpus, "GPU": spec.resources.gpus}
    if spec.parallel is None:
        return {"ray_actor_options": {"num_cpus": asked["CPU"], "num_gpus": asked["GPU"]}}
    bundle = {name: amount for name, amount in asked.items() if amount}
    return {
        "ray_actor_options": {"num_cpus": DOOR_CPUS},
        "placement_group_bundles": [{"CPU": DOOR_CPUS}, *([bundle] * spec.parallel.ranks)],
        "placement_group_strategy": "PACK",
        "health_check_period_s": HEALTH_PERIOD_S,
    }
