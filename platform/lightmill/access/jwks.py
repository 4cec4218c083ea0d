"""The public keys of trusted issuers: read from files and URLs, kept, and renewed in the background.

One process of a deployment reads them and hands them to all others. Whoever checks tokens never waits for an issuer,
and nobody who sends tokens can make anything be fetched.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import yaml
from pydantic import ValidationError

from lightmill.access.tokens import read_keys
from lightmill.errors import LightmillError, NotFoundError, RequestError, UnavailableError
from lightmill.records.access import IssuersSpec, JwtIssuer, TrustedIssuer

JWKS_MAX_BYTES = 1 << 18
FETCH_S = 5.0
RETRY_S = 5.0
Fetch = Callable[[JwtIssuer], str]
logger = logging.getLogger("lightmill.access")


def load_issuers(path: Path | None) -> tuple[JwtIssuer, ...]:
    """Return the issuers that a YAML file names; none without a file.

    Raises:
        NotFoundError: There is no such file.
        RequestError: It is malformed.
    """
    if path is None:
        return ()
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        return IssuersSpec.model_validate(value).issuers
    except OSError as exc:
        raise NotFoundError(f"No file at {path}; correct LIGHTMILL_JWT_ISSUERS.") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise RequestError(f"{path} is not valid YAML: {str(exc).splitlines()[0]}") from exc
    except ValidationError as exc:
        problem = exc.errors()[0]
        key = ".".join(str(part) for part in problem["loc"]) or "it"
        raise RequestError(f"{path} names no issuers of tokens: {key}: {problem['msg']}.") from exc


def fetch_jwks(issuer: JwtIssuer) -> str:
    """Return an issuer's key set as text, from its file or URL; redirects are not followed.

    Raises:
        UnavailableError: It cannot be read, or is too long.
    """
    where = f"The keys of issuer {issuer.issuer!r} at {issuer.jwks}"
    try:
        if "://" not in issuer.jwks:
            data = Path(issuer.jwks).expanduser().read_bytes()
        else:
            with httpx.stream("GET", issuer.jwks, timeout=FETCH_S, follow_redirects=False) as answer:
                if answer.status_code != 200:
                    raise UnavailableError(f"{where} were answered with {answer.status_code}.")
                data = b""
                for part in answer.iter_bytes():
                    data += part
                    if len(data) > JWKS_MAX_BYTES:
                        break
    except (httpx.HTTPError, OSError) as exc:
        raise UnavailableError(f"{where} cannot be read: {exc or type(exc).__name__}.") from exc
    if len(data) > JWKS_MAX_BYTES:
        raise UnavailableError(f"{where} are more than {JWKS_MAX_BYTES} bytes.")
    return data.decode("utf-8", "replace")


class IssuerBook:
    """The issuers with their keys. A set that cannot be read, or is malformed, leaves the one of before."""

    def __init__(
        self,
        issuers: Sequence[JwtIssuer],
        fetch: Fetch = fetch_jwks,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is read yet."""
        self._issuers = tuple(issuers)
        self._fetch = fetch
        self._clock = clock
        self._sets: dict[str, str] = {}
        self._due: dict[str, float] = {}

    def trusted(self) -> tuple[TrustedIssuer, ...]:
        """Return the issuers whose keys have been read; never waits."""
        sets = dict(self._sets)
        return tuple(
            TrustedIssuer(issuer=issuer, jwks=sets[issuer.issuer]) for issuer in self._issuers if issuer.issuer in sets
        )

    def renew(self) -> bool:
        """Read the sets whose time has come; return whether one changed."""
        changed = False
        for issuer in self._issuers:
            name, now = issuer.issuer, self._clock()
            if now < self._due.get(name, now):
                continue
            try:
                found = self._fetch(issuer)
                read_keys(found, issuer)
            except LightmillError as exc:
                logger.error("%s", exc)
                self._due[name] = now + RETRY_S
                continue
            self._due[name] = now + issuer.refresh_s
            changed |= self._sets.get(name) != found
            self._sets[name] = found
        return changed

    def run(self, stop: threading.Event, changed: Callable[[], None]) -> None:
        """Renew until `stop` is set, telling `changed` of it; returns at once where nobody is trusted."""
        while self._issuers and not stop.wait(1.0):
            if self.renew():
                changed()
