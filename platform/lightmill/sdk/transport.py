"""One HTTP connection to a platform; foreign exceptions become Lightmill errors here and nowhere else."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from lightmill.errors import LightmillError, RequestError, UnavailableError, error_named

API = "/api/v1"
TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5.0
_BY_STATUS = {
    400: "RequestError",
    401: "AuthenticationError",
    403: "ForbiddenError",
    404: "NotFoundError",
    409: "ConflictError",
    429: "TooManyRequestsError",
    503: "UnavailableError",
}


def path(*parts: str) -> str:
    """Return the API's path to a thing. A part may hold any character; it stays one part.

    Raises:
        RequestError: A part is empty, "." or "..", which would lead elsewhere.
    """
    wrong = next((part for part in parts if part in ("", ".", "..")), None)
    if wrong is not None:
        raise RequestError(f"{wrong!r} names nothing.")
    return "/".join((API, *(quote(part, safe="") for part in parts)))


class Transport:
    """Sends requests with the API key; safe to use from several threads."""

    def __init__(self, url: str, api_key: SecretStr, trust: ssl.SSLContext | bool = True) -> None:
        """Open a connection to the platform at `url`; `trust` are the certificates to believe over HTTPS.

        Raises:
            RequestError: `url` is none.
        """
        self.url = url.rstrip("/")
        try:
            host = httpx.URL(self.url).host
        except httpx.InvalidURL as exc:
            raise RequestError(f"{url!r} is no URL of a platform ({exc}); correct LIGHTMILL_URL.") from exc
        self._client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {api_key.get_secret_value()}"},
            timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            verify=trust,
            # A proxy for the world outside must not see what is said to this machine, the key least of all.
            trust_env=host not in ("127.0.0.1", "localhost", "::1"),
        )

    def __repr__(self) -> str:
        return f"Transport({self.url})"

    def get(self, path: str, **query: str | int) -> Any:
        """Return the JSON body of a GET."""
        return _json(self.send("GET", path, query=query))

    def put(self, path: str, body: object) -> Any:
        """Return the JSON body of a PUT."""
        return _json(self.send("PUT", path, body=body))

    def post(self, path: str, body: object | None = None) -> Any:
        """Return the JSON body of a POST."""
        return _json(self.send("POST", path, body=body))

    def delete(self, path: str, **query: str | int) -> Any:
        """Return the JSON body of a DELETE."""
        return _json(self.send("DELETE", path, query=query))

    def send(
        self, method: str, path: str, *, query: dict[str, Any] | None = None, body: object | None = None
    ) -> httpx.Response:
        """Send one request and return its response.

        Raises:
            UnavailableError: The platform does not answer.
            LightmillError: The platform refused; the class is the one that it named.
        """
        try:
            response = self._client.request(method, path, params=query or None, json=body)
        except httpx.HTTPError as exc:
            raise UnavailableError(
                f"No platform answers at {self.url} ({exc or type(exc).__name__}). Start it with `lightmill up`, "
                "or set LIGHTMILL_URL."
            ) from exc
        if response.is_success:
            return response
        raise _error(response)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as exc:
        raise UnavailableError(
            f"{response.request.url} did not answer as a Lightmill platform does; check LIGHTMILL_URL."
        ) from exc


def _error(response: httpx.Response) -> LightmillError:
    try:
        body = response.json()
        message, kind = body["error"], body.get("type")
    except (ValueError, KeyError, TypeError):
        message, kind = f"{response.request.url} answered {response.status_code}: {response.text[:200]}", None
    return error_named(kind or _BY_STATUS.get(response.status_code, "LightmillError"))(message)
