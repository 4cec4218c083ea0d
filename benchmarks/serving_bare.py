"""An endpoint's service alone, deployed as endpoints are: no keys, limits, metrics, log or trace.

Run: serving_bare.py NAME, with the environment of a node. It deletes what it deployed when its input ends.
"""

from __future__ import annotations

import sys
from typing import Any

import ray
from ray import serve

from lightmill.records.references import AssetKind, VersionId, parse_reference
from lightmill.records.specs import EndpointSpec
from lightmill.registry import RegistryLocation
from lightmill.settings import Settings
from lightmill.wiring import open_platform

NAME = "bare"


class Bare:
    """The deployment class."""

    def __init__(self, spec: str, version: str, location: str) -> None:
        from lightmill.serving.garbage import settle
        from lightmill.serving.loading import load_service
        from lightmill.serving.shortcut import offer

        self._service = load_service(
            EndpointSpec.model_validate_json(spec),
            VersionId.model_validate_json(version),
            RegistryLocation.model_validate_json(location),
        )
        offer(f"/{NAME}", self._service)  # past Serve, as an endpoint's requests go
        settle()

    def __serve_build_asgi_app__(self) -> Any:
        """Return the service."""
        return self._service


def main() -> None:
    """Deploy the service of an endpoint's model until standard input ends."""
    name = sys.argv[1]
    platform = open_platform(Settings.read())
    version = platform.registry.resolve(AssetKind.MODEL, parse_reference(f"{name}@champion"))
    spec = EndpointSpec(name=name, model=f"{name}@champion")
    ray.init(address="auto", log_to_driver=False)
    deployment: Any = serve.deployment(serve.ingress()(Bare))
    options = deployment.options(
        name="service", num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0.25}
    )
    application = options.bind(spec.model_dump_json(), version.model_dump_json(), platform.location.model_dump_json())
    serve.run(application, name=NAME, route_prefix=f"/{NAME}")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    serve.delete(NAME, _blocking=False)


if __name__ == "__main__":
    main()
