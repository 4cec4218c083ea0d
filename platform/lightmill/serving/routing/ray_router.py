"""The adapter to Ray Serve's request routers: the balancing of deployments that are called by handle.

HAProxy spreads what comes by HTTP itself, past these (see `lightmill.launch.haproxy`); Serve refuses a router of its
own for an application's ingress. So they are for deployments behind another, such as what a gateway calls. The key of
`hash` and `prefix` is the caller's `handle.options(session_id=KEY)`. Loads are what this handle knows: what it sent,
and what replicas said when they answered. `weighted` takes what a replica's `record_routing_stats` calls `weight`.
"""

from __future__ import annotations

from typing import Any

from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import RequestRouter
from ray.serve.config import RequestRouterConfig

from lightmill.records.balancing import BalancingSpec
from lightmill.serving.routing.balancer import Balancer

WEIGHT = "weight"
SERVE_OWN = {"round_robin": "ray.serve.experimental.round_robin_router:RoundRobinRouter"}


class EndpointRouter(RequestRouter):
    """Offers the replica that a `Balancer` chooses, and the others by load should that one be full."""

    def initialize_state(self, balancing: dict[str, Any] | None = None, **_: object) -> None:
        """Take the configuration; Serve calls it with the keyword arguments of the router's configuration."""
        self._balancer = Balancer(BalancingSpec.model_validate(balancing or {}))

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the replicas in the order in which they should be asked."""
        if not candidate_replicas:
            return []
        key = ""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
            key = pending_request.metadata.session_id
        ids = [replica.replica_id for replica in candidate_replicas]
        loads = [self.replica_queue_len_cache.get(id) or 0 for id in ids]
        first = self._balancer.choose(
            loads,
            names=[id.unique_id for id in ids],
            weights=[float(replica.routing_stats.get(WEIGHT, 1.0)) for replica in candidate_replicas],
            key=key,
        )
        others = sorted((place for place in range(len(loads)) if place != first), key=loads.__getitem__)
        return [[candidate_replicas[place]] for place in (first, *others)]


def router_config(spec: BalancingSpec) -> RequestRouterConfig:
    """Return Serve's configuration for a deployment that is called by handle; power of two choices is Serve's own."""
    if spec.name == "power_of_two":
        return RequestRouterConfig()
    # Serve annotates keyword arguments as though all were dicts.
    if spec.name in SERVE_OWN:
        return RequestRouterConfig(request_router_class=SERVE_OWN[spec.name])  # pyright: ignore[reportArgumentType]
    arguments = {"balancing": spec.model_dump(mode="json")}
    path = f"{__name__}:EndpointRouter"
    return RequestRouterConfig(request_router_class=path, request_router_kwargs=arguments)  # pyright: ignore[reportArgumentType]
