"""Endpoints: desired state in the catalog, observed state from Ray Serve."""

from __future__ import annotations

from enum import StrEnum

from lightmill.records.base import Record
from lightmill.records.references import VersionId
from lightmill.records.specs import EndpointSpec


class EndpointState(StrEnum):
    """What an endpoint is doing."""

    PENDING = "pending"
    DEPLOYING = "deploying"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    FAILED = "failed"
    DELETING = "deleting"


class Endpoint(Record):
    """One endpoint: what should be (`spec`, `deleted`) and what was last seen (`state`, `version`).

    `revision` counts the changes of the spec; `version` is the model version that answers.
    """

    name: str
    spec: EndpointSpec
    revision: int = 1
    deleted: bool = False
    state: EndpointState = EndpointState.PENDING
    version: VersionId | None = None
    replicas: int = 0
    message: str = ""
    created: str = ""
    updated: str = ""
    url: str = ""


class ApiKey(Record):
    """An API key as it is kept: never the key, only its id and the SHA-256 of its secret, in hex."""

    id: str
    name: str
    secret_sha256: str
    role: str = "admin"
    created: str = ""
    revoked: str | None = None
