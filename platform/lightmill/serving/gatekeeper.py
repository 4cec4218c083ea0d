"""Who may call one endpoint, checked in the replica: key or token, scope, rate and concurrency.

A request of a known caller costs two dict look-ups and a little arithmetic. What was accepted is remembered for at
most `REMEMBERED_S`, and never beyond its expiry or a change of the keys; what was refused is not remembered, so that
any number of bad keys takes no memory.

It is used from one event loop; only `renew` may come from another thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lightmill.access import Identifier, Identity, Limiter, LimitState, together
from lightmill.access.keys import BEARER, PLAIN, credentials, presented_by
from lightmill.access.limits import share
from lightmill.errors import ForbiddenError
from lightmill.records.access import LimitsSpec, TrustedIssuer, may_predict
from lightmill.records.endpoints import ApiKey
from lightmill.records.keys import AccessSet

REMEMBERED_S = 60.0
REMEMBERED_MOST = 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Caller:
    """Who sends a request that was let in. Hand it to `Gatekeeper.release` when the request is answered.

    Attributes:
        id: The public id of its key, or `jwt:` with issuer and subject; may stand in logs.
        name: What people call it.
        scopes: What it may do.
        state: What it has used of its limits.
    """

    id: str
    name: str
    scopes: frozenset[str]
    state: LimitState
    until: float


class _Tables:
    """What belongs to one set of keys. A set that is replaced takes along what was remembered of it."""

    __slots__ = ("bearers", "identifier", "plain", "replicas")

    def __init__(self, identifier: Identifier, replicas: int) -> None:
        self.identifier = identifier
        self.replicas = replicas
        self.bearers: dict[bytes, Caller] = {}
        self.plain: dict[bytes, Caller] = {}


class Gatekeeper:
    """Lets callers of one endpoint in and counts them out."""

    def __init__(
        self,
        endpoint: str,
        keys: Iterable[ApiKey] = (),
        issuers: Iterable[TrustedIssuer] = (),
        *,
        limits: LimitsSpec = LimitsSpec(),  # noqa: B008 - a frozen record
        replicas: int = 1,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Begin with these keys and issuers.

        Args:
            endpoint: Whose door this is.
            keys: The keys of the deployment.
            issuers: Whose tokens are believed.
            limits: What every caller may ask of this endpoint at most, over all replicas.
            replicas: How many replicas there are.
            clock: Returns seconds that never go back.
            wall: Returns seconds since 1970.
        """
        self._endpoint = endpoint
        self._limits = limits
        self._clock = clock
        self._wall = wall
        self._limiter = Limiter()
        self._tables = _Tables(Identifier(keys, issuers, wall=wall), replicas)

    def renew(self, access: AccessSet) -> None:
        """Take another set of keys, issuers and replicas; who is inside stays counted.

        Raises:
            RequestError: The keys of an issuer are none that can be used; the set of before stays.
        """
        replicas = max(1, access.replicas.get(self._endpoint, 1))
        self._tables = _Tables(Identifier(access.keys, access.issuers, wall=self._wall), replicas)

    def admit(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Return who sends raw ASGI headers (names in lower case), counted in; see `admit_values`."""
        return self.admit_values(*credentials(headers))

    def admit_values(self, authorization: bytes | None, x_api_key: bytes | None) -> Caller:
        """Return whom the values of the two headers present, counted in until `release`.

        Raises:
            AuthenticationError: Nobody who is known; 401.
            ForbiddenError: Somebody who may not call this endpoint; 403.
            TooManyRequestsError: Somebody who calls too much; 429, its `retry_after_s` belongs into Retry-After.
        """
        now = self._clock()
        tables = self._tables
        caller = None
        if authorization is not None:
            caller = tables.bearers.get(authorization)
        elif x_api_key is not None:
            caller = tables.plain.get(x_api_key)
        if caller is None or now >= caller.until:
            caller = self._enter(tables, authorization, x_api_key, now)
        caller.state.enter(now)
        return caller

    def release(self, caller: Caller) -> None:
        """Count a caller out: its request is answered, or its client went away."""
        caller.state.running -= 1

    def _enter(self, tables: _Tables, authorization: bytes | None, x_api_key: bytes | None, now: float) -> Caller:
        found = tables.identifier.identify(authorization, x_api_key)
        if not may_predict(found.scopes, self._endpoint):
            raise ForbiddenError(
                f"{_what(found)} may not call endpoint {self._endpoint!r}; it needs the scope "
                f"predict:{self._endpoint} (or predict:*)."
            )
        limits = share(together(found.limits, self._limits), tables.replicas)
        caller = Caller(
            id=found.id,
            name=found.name,
            scopes=frozenset(found.scopes),
            state=self._limiter.state(found.id, limits, now),
            until=now + min(REMEMBERED_S, found.until - self._wall()),
        )
        kind, _ = presented_by(authorization, x_api_key)
        if kind == BEARER and authorization is not None:
            _remember(tables.bearers, authorization, caller)
        elif kind == PLAIN and x_api_key is not None:
            _remember(tables.plain, x_api_key, caller)
        return caller


def _what(found: Identity) -> str:
    return "The token" if found.id.startswith("jwt:") else f"The API key {found.name!r}"


def _remember(known: dict[bytes, Caller], value: bytes, caller: Caller) -> None:
    if len(known) >= REMEMBERED_MOST:
        known.clear()
    known[value] = caller
