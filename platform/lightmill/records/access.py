"""Who may ask how much: scopes, limits, and the issuers whose tokens are believed.

A scope is `admin` (everything), `metrics` (only reading the platform's metrics), `predict:*` (every endpoint) or
`predict:<endpoint>`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from lightmill.records.base import Record, iso_of, seconds_of

ADMIN = "admin"
METRICS = "metrics"
ANY_ENDPOINT = "predict:*"
SCOPES_MAX = 64
BODY_BYTES = 64 << 20
_SCOPE = re.compile(r"admin|metrics|predict:(\*|[a-z0-9][a-z0-9._-]{0,63})")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures of a public key (RFC 7518, RFC 8037). There is no `none`, and no HS*: its key would be a shared secret."""


def check_scope(text: str) -> str:
    """Return a scope; ValueError if it is none."""
    if not _SCOPE.fullmatch(text):
        raise ValueError(f"{text!r} is no scope; write admin, metrics, predict:* or predict:<endpoint>")
    return text


def _scopes(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({check_scope(text) for text in value}))


def _time(value: str) -> str:
    try:
        return iso_of(seconds_of(value))
    except (ValueError, OverflowError, OSError) as exc:
        raise ValueError(f"{value!r} is no time in ISO 8601, such as 2030-01-31T12:00:00Z") from exc


Scopes = Annotated[tuple[str, ...], Field(max_length=SCOPES_MAX), AfterValidator(_scopes)]
Time = Annotated[str, AfterValidator(_time)]


def may_predict(scopes: frozenset[str] | tuple[str, ...], endpoint: str) -> bool:
    """Whether scopes let their holder call an endpoint."""
    return ADMIN in scopes or ANY_ENDPOINT in scopes or f"predict:{endpoint}" in scopes


class LimitsSpec(Record):
    """How much one key may ask of one endpoint; what is None is not limited.

    `burst` requests may come at once after a pause; without it, those of one second, at least one. `concurrency` are
    those that are answered at the same time. A limit holds for all replicas together, as far as their number is known.
    """

    requests_per_s: float | None = Field(default=None, gt=0, le=1e6)
    burst: int | None = Field(default=None, ge=1)
    concurrency: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _burst_of_a_rate(self) -> Self:
        if self.burst is not None and self.requests_per_s is None:
            raise ValueError("burst needs requests_per_s; without a rate there is nothing to burst over")
        return self


class EndpointLimits(LimitsSpec):
    """What every key may ask of this endpoint at most, and the largest body that it takes."""

    body_bytes: int = Field(default=BODY_BYTES, ge=1024, le=1 << 30)


class AccessSpec(Record):
    """Who may reach an endpoint besides holders of keys: browsers on pages of `cors_origins`; none unless named."""

    cors_origins: tuple[str, ...] = ()

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; write scheme and host, such as https://shop.example")
        return value


class JwtIssuer(Record):
    """An issuer whose tokens (RFC 7519) are believed.

    Attributes:
        issuer: What the claim `iss` must be.
        audience: What must be in the claim `aud`.
        jwks: Where its public keys are (RFC 7517): an https URL, or the path of a file.
        algorithms: The signatures that are taken.
        leeway_s: How far its clock may be from ours.
        scope_claim: The claim that says what the holder may do: words with blanks between, or a list.
        scopes: The scopes that each value of that claim gives. A value that is a scope `predict:...` itself gives that
            scope without standing here; `admin` and `metrics` are given by this map alone, since issuers call much
            else so.
        refresh_s: How often the keys are read again.
    """

    issuer: str = Field(min_length=1, max_length=500)
    audience: str = Field(min_length=1, max_length=500)
    jwks: str = Field(min_length=1)
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "ES256"), min_length=1)
    leeway_s: float = Field(default=30.0, ge=0, le=300)
    scope_claim: str = "scope"
    scopes: dict[str, Scopes] = Field(default_factory=dict)
    limits: LimitsSpec = LimitsSpec()
    refresh_s: float = Field(default=300.0, ge=5)

    @field_validator("jwks")
    @classmethod
    def _where(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme == "http" and url.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError(f"{value!r} is not encrypted, so anybody on the way could put in keys; use https")
        if "://" in value and url.scheme not in ("http", "https"):
            raise ValueError(f"{value!r} is neither an https URL nor a path")
        return value


class IssuersSpec(Record):
    """The file that LIGHTMILL_JWT_ISSUERS names."""

    issuers: tuple[JwtIssuer, ...] = Field(min_length=1, max_length=32)

    @model_validator(mode="after")
    def _once_each(self) -> Self:
        names = [found.issuer for found in self.issuers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"issuer {twice[0]!r} stands twice")
        return self


class TrustedIssuer(Record):
    """An issuer with its public keys, a JSON Web Key Set as text; it holds no secret."""

    issuer: JwtIssuer
    jwks: str
