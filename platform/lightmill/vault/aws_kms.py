"""Root keys in AWS KMS: Encrypt, Decrypt and ReEncrypt with an encryption context, which KMS authenticates.

Needs the extra `aws` (boto3). A destroyed key is scheduled for deletion: it refuses at once, and an operator
of the account can take that back until the waiting period of seven days, the shortest that KMS allows, ends.
Source: https://docs.aws.amazon.com/kms/latest/APIReference/
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from lightmill.errors import IntegrityError, LightmillError, RequestError, UnavailableError
from lightmill.vault.confined import Confined
from lightmill.vault.services import DESTROYED_NOW, AwsKmsSettings, KeyService

WAITING_DAYS = 7
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 10
ATTEMPTS = 3

_LATER = frozenset(
    {
        "ThrottlingException",
        "Throttling",
        "RequestLimitExceeded",
        "KMSInternalException",
        "InternalFailure",
        "InternalServerError",
        "DependencyTimeoutException",
        "KeyUnavailableException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "RequestTimeout",
    }
)
_KEY_STATES = frozenset({"NotFoundException", "DisabledException", "KMSInvalidStateException", "InvalidArnException"})
_WRONG_BYTES = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})


class AwsKms(Confined, KeyService):
    """One region of AWS KMS. boto3 finds the credentials; they are never read or shown here."""

    __slots__ = ("_client", "_settings")

    def __init__(self, settings: AwsKmsSettings) -> None:
        try:
            import boto3  # pyright: ignore[reportMissingImports] - an extra
            from botocore.config import Config  # pyright: ignore[reportMissingImports]
        except ImportError as exc:
            raise RequestError("AWS KMS needs boto3; install it with: pip install 'lightmill[aws]'") from exc
        self._settings = settings
        # At DEBUG botocore logs what it sends and receives, the keys included.
        logging.getLogger("botocore").setLevel(logging.INFO)
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        )
        session = boto3.Session(region_name=settings.region)  # the default session is not safe among threads
        self._client: Any = session.client("kms", endpoint_url=settings.endpoint or None, config=config)

    def __repr__(self) -> str:
        return f"AwsKms(uri={self.uri!r})"

    @property
    def uri(self) -> str:
        """The scheme and the region."""
        return self._settings.uri

    def wrap(self, key_id: str, key: bytes, context: Mapping[str, str]) -> bytes:
        """Encrypt a key; see the port."""
        with _Translated(self.uri, key_id, RequestError):
            answer = self._client.encrypt(KeyId=key_id, Plaintext=key, EncryptionContext=dict(context))
            return _field(answer, "CiphertextBlob", self.uri)

    def unwrap(self, key_id: str, ciphertext: bytes, context: Mapping[str, str]) -> bytes:
        """Decrypt a key, under the key that the envelope names and no other; see the port."""
        with _Translated(self.uri, key_id, IntegrityError):
            answer = self._client.decrypt(KeyId=key_id, CiphertextBlob=ciphertext, EncryptionContext=dict(context))
            return _field(answer, "Plaintext", self.uri)

    def rewrap(self, key_id: str, ciphertext: bytes, context: Mapping[str, str], new_key_id: str) -> bytes:
        """Let KMS encrypt it again; the key does not leave the service; see the port."""
        with _Translated(self.uri, key_id, IntegrityError):
            answer = self._client.re_encrypt(
                CiphertextBlob=ciphertext,
                SourceKeyId=key_id,
                SourceEncryptionContext=dict(context),
                DestinationKeyId=new_key_id,
                DestinationEncryptionContext=dict(context),
            )
            return _field(answer, "CiphertextBlob", self.uri)

    def check(self, key_id: str) -> str:
        """Return the ARN of an enabled symmetric key; see the port."""
        with _Translated(self.uri, key_id, RequestError):
            found = self._client.describe_key(KeyId=key_id)["KeyMetadata"]
        wanted = {"KeyState": "Enabled", "KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "SYMMETRIC_DEFAULT"}
        facts = {name: found.get(name, value) for name, value in wanted.items()}
        if facts != wanted:
            raise RequestError(
                f"{key_id} of {self.uri} is {', '.join(facts.values())}; a root key is an enabled symmetric key "
                "for ENCRYPT_DECRYPT"
            )
        return found["Arn"]

    def create(self, label: str) -> str:
        """Make a symmetric key; see the port."""
        with _Translated(self.uri, "a new key", RequestError):
            return self._client.create_key(Description=label)["KeyMetadata"]["Arn"]

    def destroy(self, key_id: str) -> str:
        """Schedule the key's deletion in seven days; see the port."""
        with _Translated(self.uri, key_id, RequestError):
            try:
                found = self._client.describe_key(KeyId=key_id)["KeyMetadata"]
            except self._client.exceptions.NotFoundException:
                return DESTROYED_NOW
            if found["KeyState"] != "PendingDeletion":
                found = self._client.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=WAITING_DAYS)
            final: datetime = found["DeletionDate"]
            return final.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _field(answer: Mapping[str, Any], name: str, uri: str) -> bytes:
    value = answer.get(name)
    if not isinstance(value, bytes):
        raise UnavailableError(f"{uri} gave an answer without {name}; is there a proxy in between?")
    return value


class _Translated:
    """Turns botocore's errors into ours; `blame` is the error for a key that refuses."""

    def __init__(self, uri: str, key_id: str, blame: Callable[[str], LightmillError]) -> None:
        self._uri = uri
        self._key_id = key_id
        self._blame = blame

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> None:
        from botocore.exceptions import (  # pyright: ignore[reportMissingImports] - an extra
            BotoCoreError,
            ClientError,
            ConnectionError,
            HTTPClientError,
        )
        from botocore.parsers import ResponseParserError  # pyright: ignore[reportMissingImports]

        if isinstance(exc, ClientError):
            raise self._of_answer(exc) from exc
        if isinstance(exc, HTTPClientError | ConnectionError | ResponseParserError):
            raise UnavailableError(f"{self._uri} does not answer ({type(exc).__name__}); try again") from exc
        if isinstance(exc, BotoCoreError):
            raise RequestError(f"{self._uri} cannot be called: {exc}") from exc

    def _of_answer(self, exc: Any) -> LightmillError:
        code = str(exc.response.get("Error", {}).get("Code", ""))
        status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _LATER or status == 429 or status >= 500:
            return UnavailableError(f"{self._uri} cannot answer now ({code or status}); try again")
        if code in _KEY_STATES:
            return self._blame(
                f"The root key {self._key_id} of {self._uri} cannot be used ({code}): it is unknown, disabled or "
                "about to be deleted. Enable it, or cancel its deletion, if that was not intended"
            )
        if code in _WRONG_BYTES:
            return self._blame(
                f"The root key {self._key_id} of {self._uri} does not unwrap this ({code}): the wrapped key was "
                "changed or moved. Restore the envelope from a backup"
            )
        return RequestError(
            f"{self._uri} refused the call for {self._key_id} ({code or status}); check the credentials and what "
            "the key's policy and the role allow"
        )
