"""An endpoint as a Ray Serve application."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.serve import Application

from lightmill.records.endpoints import ApiKey
from lightmill.records.references import VersionId
from lightmill.records.signals import SignalsConfig
from lightmill.records.specs import EndpointSpec
from lightmill.registry import RegistryLocation
from lightmill.serving.parallel.placing import deployment_options
from lightmill.serving.predictor import KeysConfig, Predictor, PredictorConfig
from lightmill.serving.scaling.ray_policy import autoscaling_config

MAX_ONGOING_REQUESTS = 1024
CONSTRUCTOR_RETRIES = 2
SERVE_LOG = {"log_level": "WARNING", "enable_access_log": False}
"""Serve writes a line for each request too, on the request's path; ours is written off it (`serving.signals`)."""
APPLICATION_PREFIX = "endpoint-"
CANDIDATE_PREFIX = "candidate-"
OF = "~"
"""Between a candidate and its endpoint in the name of an application; neither name may hold it."""


def application_name(endpoint: str) -> str:
    """Return the name of an endpoint's Serve application."""
    return APPLICATION_PREFIX + endpoint


def candidate_application(endpoint: str, candidate: str) -> str:
    """Return the name of a candidate's Serve application, which has no route."""
    return f"{CANDIDATE_PREFIX}{candidate}{OF}{endpoint}"


def candidate_of(application: str) -> tuple[str, str] | None:
    """Return the endpoint and the candidate that an application is; None if it is something else."""
    if not application.startswith(CANDIDATE_PREFIX):
        return None
    candidate, _, endpoint = application.removeprefix(CANDIDATE_PREFIX).partition(OF)
    return endpoint, candidate


def route_prefix(endpoint: str) -> str:
    """Return the path below which an endpoint answers."""
    return f"/v2/models/{endpoint}"


def build_application(
    spec: EndpointSpec,
    version: VersionId,
    location: RegistryLocation,
    keys: Sequence[ApiKey],
    *,
    loopback: bool,
    allow_python: bool = False,
    attempt: int = 0,
    signals: SignalsConfig = SignalsConfig(),  # noqa: B008 - a frozen record
    candidate: str = "",
) -> Application:
    """Return the application of one endpoint at one version, or of a candidate beside it.

    A change of version or specification rolls with full surge: new replicas warm up and take traffic before
    old ones drain. A change of keys alone reaches the replicas without a restart. `allow_python` lets `python` steps of
    the model's preparation call functions. `attempt` counts deliberate retries of a deployment that failed. Changes of
    traffic restart nothing: replicas follow the board. A candidate answers requests whole: what divides them over
    replicas asks those of the endpoint, which have another version.
    """
    config = PredictorConfig(
        spec=spec.model_copy(update={"traffic": None} | ({"split": None} if candidate else {})),
        version=version,
        location=location,
        loopback=loopback,
        allow_python=allow_python,
        signals=signals,
        candidate=candidate,
    )
    deploy: Any = serve.deployment(
        name="predictor",
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        autoscaling_config=autoscaling_config(spec.replicas),
        user_config=KeysConfig(keys=tuple(keys)).model_dump(mode="json"),
        max_surge_percent=100,
        max_constructor_retry_count=CONSTRUCTOR_RETRIES,
        rolling_update_percentage=1.0,
        logging_config=SERVE_LOG,
        **deployment_options(spec),
    )
    text = config.model_dump_json()
    # Serve restarts replicas whose code version changed; keys are not in it, since they reconfigure only.
    code = hashlib.sha256(f"{attempt}/{text}".encode()).hexdigest()[:16]
    return deploy(serve.ingress()(Predictor)).options(version=code, _internal=True).bind(text)
