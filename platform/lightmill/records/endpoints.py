"""Endpoints: desired state in the catalog, observed state from Ray Serve."""

from __future__ import annotations

from enum import StrEnum

from lightmill.records.access import LimitsSpec, Scopes, Time
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
    """An API key as it is kept: never the key, only its id and the SHA-256 of its secret, in hex.

    Attributes:
        scopes: What it may do; see `records.access`.
        expires: From when on it is refused; None for never.
        old_sha256: The secret before the last rotation, good until `old_until`.
        limits: How much it may ask of one endpoint.
        last_used: When an endpoint last saw it, give or take a minute.
    """

    id: str
    name: str
    secret_sha256: str
    role: str = "admin"
    scopes: Scopes = ()
    created: str = ""
    expires: Time | None = None
    revoked: str | None = None
    old_sha256: str | None = None
    old_until: Time | None = None
    limits: LimitsSpec = LimitsSpec()
    last_used: str | None = None

    @property
    def prefix(self) -> str:
        """The public beginning of the key's text, by which people tell keys apart."""
        return f"lm_{self.id}"
