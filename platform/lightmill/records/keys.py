"""API keys as they are asked for, shown and handed to replicas."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field

from lightmill.records.access import ANY_ENDPOINT, LimitsSpec, Scopes, Time, TrustedIssuer
from lightmill.records.base import Record
from lightmill.records.endpoints import ApiKey

OVERLAP_MAX_S = 90 * 86400.0
DAY_S = 86400.0


class KeyState(StrEnum):
    """Whether a key opens anything."""

    ACTIVE = "active"
    ROTATING = "rotating"
    EXPIRED = "expired"
    REVOKED = "revoked"


class KeyRequest(Record):
    """A key to make. Without `expires` it is good until it is revoked."""

    name: str = Field(min_length=1, max_length=200)
    scopes: Scopes = Field(default=(ANY_ENDPOINT,), min_length=1)
    expires: Time | None = None
    limits: LimitsSpec = LimitsSpec()


class RotateRequest(Record):
    """A new secret for a key; the old one stays good for `overlap_s` seconds beside it."""

    overlap_s: float = Field(default=DAY_S, ge=0, le=OVERLAP_MAX_S)


class KeySummary(Record):
    """A key as people see it. `prefix` is the public beginning of its text; nothing of the secret is here."""

    id: str
    prefix: str
    name: str
    scopes: tuple[str, ...]
    state: KeyState
    created: str
    expires: str | None = None
    revoked: str | None = None
    old_until: str | None = None
    limits: LimitsSpec = LimitsSpec()
    last_used: str | None = None

    @classmethod
    def of(cls, key: ApiKey, now: str) -> Self:
        """Return what people may see of a key at the time `now`."""
        rotating = key.old_until is not None and key.old_until > now
        state = KeyState.ROTATING if rotating else KeyState.ACTIVE
        if key.expires is not None and key.expires <= now:
            state = KeyState.EXPIRED
        if key.revoked is not None:
            state = KeyState.REVOKED
        return cls(
            id=key.id,
            prefix=key.prefix,
            name=key.name,
            scopes=key.scopes,
            state=state,
            created=key.created,
            expires=key.expires,
            revoked=key.revoked,
            old_until=key.old_until if rotating else None,
            limits=key.limits,
            last_used=key.last_used,
        )


class MintedKey(Record):
    """A new key, or a new secret of one: `key` is shown this once and kept nowhere."""

    key: str
    summary: KeySummary


class AccessSet(Record):
    """All that replicas need to know of who may call; digests of random secrets and public keys, no secret.

    `replicas` are how many replicas each endpoint has, as far as the platform knows.
    """

    keys: tuple[ApiKey, ...] = ()
    issuers: tuple[TrustedIssuer, ...] = ()
    replicas: dict[str, int] = Field(default_factory=dict)
