"""The port to whatever keeps root keys, and the envelope that carries a wrapped version key.

One version of one asset has one version key. It is wrapped under a root key together with a context (store,
workspace, asset id, version), and the envelope is authenticated by the version key itself: who swaps any
part of it produces an envelope that does not open.
"""

from __future__ import annotations

import hashlib
import hmac
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lightmill.errors import IntegrityError
from lightmill.vault.canonical import canonical_json, decode_base64, encode_base64, parse_json
from lightmill.vault.derivation import derive

MAX_ENVELOPE_BYTES = 64 << 10
MAX_ROT = 999_999


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """A key under another key.

    Attributes:
        provider: URI of the provider that wrapped it.
        key_id: The provider's name for the root key.
        ciphertext: What the provider needs to unwrap it.
    """

    provider: str
    key_id: str
    ciphertext: bytes


class KeyProvider(ABC):
    """Keeps root keys and never gives them out. Every method may be called from any thread."""

    @property
    @abstractmethod
    def uri(self) -> str:
        """Which provider this is; written into envelopes."""

    @property
    @abstractmethod
    def key_id(self) -> str:
        """The root key that `wrap` uses now."""

    def target(self, context: Mapping[str, str]) -> tuple[str, str]:
        """Return URI and root key that `wrap` would use for this context."""
        return self.uri, self.key_id

    @abstractmethod
    def wrap(self, key: bytes, context: Mapping[str, str]) -> Wrapped:
        """Wrap a 32-byte key so that it unwraps under an equal context only.

        Raises:
            UnavailableError: When the provider does not answer; a retry is allowed.
            RequestError: When the key does not have 32 bytes, or the root key may not be used.
        """

    @abstractmethod
    def unwrap(self, wrapped: Wrapped, context: Mapping[str, str]) -> bytes:
        """Return the 32-byte key.

        Raises:
            IntegrityError: When the root key is unknown, the context differs or the bytes were changed; a
                retry gives the same answer.
            ErasedError: When the root key was destroyed on purpose.
            RequestError: When the provider refuses this caller.
            UnavailableError: When the provider does not answer; a retry is allowed.
        """

    @abstractmethod
    def rewrap(self, wrapped: Wrapped, context: Mapping[str, str]) -> Wrapped:
        """Wrap the same key again under the current root key.

        Raises:
            IntegrityError: As `unwrap` does.
            UnavailableError: When the provider does not answer; a retry is allowed.
        """

    @abstractmethod
    def health(self) -> None:
        """Return when the provider can wrap and unwrap now.

        Raises:
            UnavailableError: When it does not answer; a retry is allowed.
            RequestError: When it refuses this caller, or a current root key cannot be used.
        """


def seal_envelope(key: bytes, provider: KeyProvider, context: Mapping[str, str], *, rot: int = 0) -> bytes:
    """Wrap a version key and return the envelope file.

    Args:
        key: The version key, 32 bytes.
        provider: What wraps it.
        context: store, workspace, mid and seq, all text.
        rot: How often the version was wrapped before.

    Raises:
        RequestError: When the key does not have 32 bytes.
        UnavailableError: When the provider does not answer; a retry is allowed.
    """
    return _envelope(key, provider.wrap(key, context), context, rot)


def open_envelope(
    data: bytes,
    provider: KeyProvider,
    context: Mapping[str, str],
    *,
    rot: int | None = None,
    name: str = "The envelope",
) -> bytes:
    """Return the version key of an envelope file.

    Args:
        data: The file as it was stored.
        provider: What wrapped it.
        context: What the envelope must be for.
        rot: The rotation in the object's name, when the caller knows it.
        name: What the error calls the file.

    Raises:
        IntegrityError: When the file is malformed, of another context or rotation, when it does not unwrap,
            or when the unwrapped key does not authenticate it.
        UnavailableError: When the provider does not answer; a retry is allowed.
    """
    record = _parse(data, name)
    if record.context != dict(context) or (rot is not None and record.rot != rot):
        raise IntegrityError(
            f"{name} belongs to another version, workspace or store, or to another rotation; it was moved "
            "here. Restore the right one from a replica or a backup"
        )
    wrapped = _wrapped(record, name)
    try:
        key = provider.unwrap(wrapped, context)
    except IntegrityError as exc:
        raise IntegrityError(f"{name}: {exc.message}") from exc
    expected = _envelope(key, wrapped, context, record.rot)
    if not hmac.compare_digest(expected, data):
        raise IntegrityError(f"{name} was changed after it was written; restore it from a replica or a backup")
    return key


def rewrap_envelope(
    data: bytes,
    provider: KeyProvider,
    context: Mapping[str, str],
    *,
    rot: int | None = None,
    name: str = "The envelope",
) -> tuple[bytes, int]:
    """Return the envelope file of the next rotation, under the current root key, and its number.

    The version key stays the same: rotation does not help against somebody who has read it already. The new
    envelope is opened again before it is returned, so that the old one may be removed once it is stored.

    Args:
        data: The envelope as it was stored.
        provider: What wrapped it and wraps it again.
        context: What the envelope must be for.
        rot: The number of the new one, by default one more than the old.
        name: What the error calls the file.

    Raises:
        IntegrityError: As `open_envelope` does.
        UnavailableError: When the provider does not answer; a retry is allowed.
    """
    key = open_envelope(data, provider, context, name=name)
    record = _parse(data, name)
    rot = record.rot + 1 if rot is None else rot
    made = _envelope(key, provider.rewrap(_wrapped(record, name), context), context, rot)
    if not hmac.compare_digest(open_envelope(made, provider, context, rot=rot, name=name), key):
        raise IntegrityError(f"{name} was wrapped again to another key by {provider.uri}; nothing was replaced")
    return made, rot


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvelopeHead:
    """What an envelope says about itself; nothing of it is verified before the envelope is opened.

    Attributes:
        provider: URI of the provider that wrapped the key.
        key_id: The root key.
        context: What the key is for.
        rot: The number of the rotation.
    """

    provider: str
    key_id: str
    context: Mapping[str, str]
    rot: int


def read_envelope_head(data: bytes, *, name: str = "The envelope") -> EnvelopeHead:
    """Return what an envelope says about itself, without a key.

    Raises:
        IntegrityError: When the file is not an envelope.
    """
    record = _parse(data, name)
    return EnvelopeHead(provider=record.provider, key_id=record.key_id, context=record.context, rot=record.rot)


class _EnvelopeRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1]
    provider: str
    key_id: str
    wrapped: str
    context: dict[str, str]
    rot: Annotated[int, Field(ge=0, le=MAX_ROT)]
    mac: str


def _envelope(key: bytes, wrapped: Wrapped, context: Mapping[str, str], rot: int) -> bytes:
    fields: dict[str, object] = {
        "format": 1,
        "provider": wrapped.provider,
        "key_id": wrapped.key_id,
        "wrapped": encode_base64(wrapped.ciphertext),
        "context": dict(context),
        "rot": rot,
    }
    mac = hmac.digest(derive(key, b"lmenv1\0"), canonical_json(fields), hashlib.sha256)
    return canonical_json(fields | {"mac": mac.hex()})


def _parse(data: bytes, name: str) -> _EnvelopeRecord:
    try:
        return _EnvelopeRecord.model_validate(parse_json(data, MAX_ENVELOPE_BYTES, name=name))
    except ValidationError as exc:
        raise IntegrityError(f"{name} is not an envelope of format 1; it is damaged") from exc


def _wrapped(record: _EnvelopeRecord, name: str) -> Wrapped:
    ciphertext = decode_base64(record.wrapped, name=name)
    return Wrapped(provider=record.provider, key_id=record.key_id, ciphertext=ciphertext)
