"""The port to a key service: many root keys, each with an id, none of which ever leaves the service.

`KeyProvider` is what the registry sees; it chooses a service and a key by the context. An adapter of this
port knows one service and chooses nothing. The settings of a service are public and stand in the key ring's
file; tokens and credentials do not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

DESTROYED_NOW = "now"
"""What `KeyService.destroy` returns when the key is gone already."""


class KeyService(ABC):
    """Wraps 32-byte keys under root keys that it keeps. Every method may be called from any thread.

    All methods raise UnavailableError when the service does not answer, throttles, or reports an error of
    its own: only then is a retry allowed. They raise RequestError when the service refuses the caller: a
    wrong token, a missing permission, an address or key that is not there.
    """

    @property
    @abstractmethod
    def uri(self) -> str:
        """Which service this is; written into envelopes. It holds no credential."""

    @abstractmethod
    def wrap(self, key_id: str, key: bytes, context: Mapping[str, str]) -> bytes:
        """Return the key, encrypted so that it unwraps under an equal context only.

        Raises:
            RequestError: When the root key is unknown, disabled or about to be deleted.
        """

    @abstractmethod
    def unwrap(self, key_id: str, ciphertext: bytes, context: Mapping[str, str]) -> bytes:
        """Return the 32-byte key.

        Raises:
            IntegrityError: When the root key is unknown, disabled, or about to be deleted, when the context
                differs or the bytes were changed. The message says what the service said.
        """

    @abstractmethod
    def rewrap(self, key_id: str, ciphertext: bytes, context: Mapping[str, str], new_key_id: str) -> bytes:
        """Return the same key under another root key of this service, or a newer version of the same one.

        Raises:
            IntegrityError: As `unwrap` does.
            RequestError: As `wrap` does.
        """

    @abstractmethod
    def check(self, key_id: str) -> str:
        """Return the lasting id of a root key that can wrap and unwrap now (an alias becomes its key).

        Raises:
            RequestError: When the root key is unknown, disabled or of a kind that cannot wrap.
        """

    @abstractmethod
    def create(self, label: str) -> str:
        """Make a root key and return its id; `label` is what the service shows to its operators.

        Raises:
            RequestError: When this caller may not make keys.
        """

    @abstractmethod
    def destroy(self, key_id: str) -> str:
        """Destroy a root key; repeating it is no error. From now on it neither wraps nor unwraps.

        Returns:
            DESTROYED_NOW, or the ISO 8601 time until which the operators of the service can take it back.
        """


class AwsKmsSettings(BaseModel):
    """Where an AWS KMS is. Credentials come from boto3's own chain (environment, profile, instance role)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["aws-kms"] = "aws-kms"
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    endpoint: Annotated[str, Field(max_length=400)] = ""

    @property
    def uri(self) -> str:
        """The scheme and the region; a key's id is its ARN, which names the account."""
        return f"aws-kms:{self.region}"


class VaultTransitSettings(BaseModel):
    """Where a HashiCorp Vault transit engine is, and the 0600 file that holds the token for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["vault-transit"] = "vault-transit"
    url: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.\-\[\]:]{1,300}$")]
    mount: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=200)] = "transit"
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_/-]*$", max_length=200)] = ""
    token_file: Annotated[str, Field(min_length=1, max_length=1000)]
    ca_file: Annotated[str, Field(max_length=1000)] = ""

    @property
    def uri(self) -> str:
        """The scheme, the address, the namespace and the mount."""
        return "vault-transit:" + "/".join(part for part in (self.url, self.namespace, self.mount) if part)


ServiceSettings = Annotated[AwsKmsSettings | VaultTransitSettings, Field(discriminator="kind")]
