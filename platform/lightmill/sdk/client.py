"""The client: datasets, jobs, models, endpoints and API keys of one platform."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from pydantic import SecretStr

from lightmill.errors import AuthenticationError
from lightmill.records.platform import PlatformStatus
from lightmill.sdk.assets import Datasets, Models
from lightmill.sdk.endpoints import Endpoints
from lightmill.sdk.jobs import Jobs
from lightmill.sdk.keys import ApiKeys
from lightmill.sdk.transport import Transport, path
from lightmill.settings import Settings


class Client:
    """A platform over HTTP. Each attribute is one noun: `datasets`, `jobs`, `models`, `endpoints`, `api_keys`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.datasets = Datasets(transport)
        self.jobs = Jobs(transport)
        self.models = Models(transport)
        self.endpoints = Endpoints(transport)
        self.api_keys = ApiKeys(transport)

    def __repr__(self) -> str:
        return f"Client({self.url})"

    @property
    def url(self) -> str:
        """The platform's address."""
        return self._transport.url

    def status(self) -> PlatformStatus:
        """Return how the platform is: version, resources, counts."""
        return PlatformStatus.model_validate(self._transport.get(path("status")))

    def close(self) -> None:
        """Close the connection; a `with` block does."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(url: str | None = None, api_key: str | None = None) -> Client:
    """Return a client.

    The address is `url`, else LIGHTMILL_URL, else this machine's platform. The key is `api_key`, else
    LIGHTMILL_API_KEY, else the administrator's key file that `lightmill up` made here. Over HTTPS the platform shows a
    certificate that the system or LIGHTMILL_TLS_CA vouches for; this machine's own one is known.

    Raises:
        AuthenticationError: No API key was found.
    """
    settings = Settings.read()
    address = url or settings.base_url
    return Client(Transport(address, _api_key(settings, api_key), settings.trust(address)))


def _api_key(settings: Settings, given: str | None) -> SecretStr:
    if given:
        return SecretStr(given)
    if settings.api_key:
        return settings.api_key
    try:
        return SecretStr(settings.api_key_path.read_text().strip())
    except OSError as exc:
        raise AuthenticationError(
            f"No API key: LIGHTMILL_API_KEY is not set and there is no {settings.api_key_path}. Start the platform "
            "with `lightmill up`, or ask its administrator for a key."
        ) from exc
