"""From the headers of a request to who asks: the holder of an API key, or of a token of a trusted issuer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightmill.access.keys import BEARER, KeyChecker, credentials, presented_by
from lightmill.errors import AuthenticationError
from lightmill.records.access import LimitsSpec, TrustedIssuer
from lightmill.records.endpoints import ApiKey

if TYPE_CHECKING:
    from lightmill.access.tokens import TokenChecker

KEY_START = b"lm_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who asks. `id` is the public id of a key, or `jwt:` with issuer and subject; `until` is in seconds since 1970."""

    id: str
    name: str
    scopes: tuple[str, ...]
    limits: LimitsSpec
    until: float


class Identifier:
    """Finds out who asks, afresh each time; whoever asks often remembers the answer until `until`."""

    def __init__(
        self,
        keys: Iterable[ApiKey],
        issuers: Iterable[TrustedIssuer] = (),
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Prepare for these keys and issuers.

        Raises:
            RequestError: The keys of an issuer are none that can be used.
        """
        self._keys = KeyChecker(keys, wall=wall)
        self._tokens: TokenChecker | None = None
        issuers = tuple(issuers)
        if issuers:
            from lightmill.access.tokens import TokenChecker

            self._tokens = TokenChecker(issuers, wall=wall)

    def check_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> Identity:
        """Return who sends raw ASGI headers.

        Raises:
            AuthenticationError: There is no good key and no good token.
        """
        return self.identify(*credentials(headers))

    def identify(self, authorization: bytes | None, x_api_key: bytes | None) -> Identity:
        """Return whom the values of the two headers present.

        Raises:
            AuthenticationError: They present nobody; the message holds nothing of what was sent.
        """
        kind, presented = presented_by(authorization, x_api_key)
        if kind == BEARER and presented.count(b".") == 2 and not presented.startswith(KEY_START):
            if self._tokens is None:
                raise AuthenticationError(
                    "This deployment trusts no issuer of tokens; send an API key, or name the issuer in "
                    "LIGHTMILL_JWT_ISSUERS."
                )
            token = self._tokens.check(presented)
            return Identity(
                id=f"jwt:{token.issuer}:{token.subject}",
                name=token.subject,
                scopes=token.scopes,
                limits=token.limits,
                until=token.until,
            )
        found = self._keys.verify(presented)
        key = found.key
        return Identity(id=key.id, name=key.name, scopes=key.scopes, limits=key.limits, until=found.until)
