"""The file of the local key ring: its fields, and how it is read and written in one step.

Format 1 holds root keys of the deployment only. Format 2 adds keys of narrower scopes, key services,
tombstones, the end of the audit trail, and a protected form in which every secret is sealed. A ring is
written in format 1 as long as that can say everything about it, so that older versions still read it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from lightmill.errors import IntegrityError, NotFoundError, RequestError
from lightmill.vault.canonical import canonical_json, decode_base64, encode_base64, parse_json
from lightmill.vault.confined import Confined
from lightmill.vault.derivation import KEY_BYTES, new_key
from lightmill.vault.passphrase import read_private
from lightmill.vault.ring_seal import Protection, RingSeal
from lightmill.vault.scopes import DEPLOYMENT
from lightmill.vault.services import ServiceSettings
from lightmill.vault.signing import Signer

DEFAULT_WORKSPACE = "default"
MAX_KEY_RING_BYTES = 16 << 20
"""About 40,000 root keys, tombstones included; a larger ring is neither written nor read."""
LOCAL_SCHEME = "local-keyring:"

Unlock = Callable[[Protection, str, "dict[str, ServiceSettings]"], RingSeal]
"""Protection, ring id and services of a file to what opens its sealed part."""


def _key_from_text(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("a key is base64 text")
    try:
        return decode_base64(value)
    except IntegrityError as exc:
        raise ValueError("a key is canonical base64 text") from exc


_Key = Annotated[
    bytes,
    BeforeValidator(_key_from_text),
    Field(min_length=KEY_BYTES, max_length=KEY_BYTES),
    PlainSerializer(encode_base64),
]
_RingId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class _Part(Confined, BaseModel):
    """A part of the file. Neither its text form nor an error about it shows a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Erasure(BaseModel):
    """When a root key was destroyed, and the receipt in the audit trail that says so."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    at: str
    receipt: str


class RootKey(BaseModel):
    """What is known about a root key: who holds it, what it is for, and whether `wrap` uses it now.

    A destroyed key keeps its entry as a tombstone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    provider: str
    key_id: str
    scope: str = DEPLOYMENT
    created: str = ""
    current: bool = False
    erased: Erasure | None = None


class TrailEnd(BaseModel):
    """The last line of the audit trail that the ring knows of: its number and the SHA-256 of its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    n: Annotated[int, Field(ge=1)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Secrets(_Part):
    """Everything in a ring that must stay secret."""

    root_keys: Annotated[dict[str, _Key], Field(repr=False)]
    name_keys: Annotated[dict[str, _Key], Field(repr=False)]
    signing_seed: Annotated[_Key, Field(repr=False)]


class KeyRingFile(_Part):
    """What the file says, whichever its format."""

    ring_id: _RingId
    keys: tuple[RootKey, ...]
    services: dict[str, ServiceSettings] = Field(default_factory=dict)
    trusted: dict[str, _Key]
    trail: TrailEnd | None = None
    secrets: Annotated[Secrets, Field(repr=False)]

    @classmethod
    def fresh(cls) -> KeyRingFile:
        """Return new random keys and the workspace "default", trusting its own signatures."""
        key_id, root_key = new_root_key()
        seed, ring_id = new_key(), secrets.token_hex(8)
        signer = Signer(seed)
        return cls(
            ring_id=ring_id,
            keys=(RootKey(provider=LOCAL_SCHEME + ring_id, key_id=key_id, current=True),),
            trusted={signer.key_id: signer.public_key},
            secrets=Secrets(root_keys={key_id: root_key}, name_keys={DEFAULT_WORKSPACE: new_key()}, signing_seed=seed),
        )

    @property
    def local_uri(self) -> str:
        """The URI of the root keys that lie in the file itself."""
        return LOCAL_SCHEME + self.ring_id

    def replaced(self, **changes: object) -> KeyRingFile:
        """Return a copy with some fields replaced."""
        return self.model_copy(update=changes)

    def with_secrets(self, **changes: object) -> KeyRingFile:
        """Return a copy with some secrets replaced."""
        return self.replaced(secrets=self.secrets.model_copy(update=changes))

    def find(self, provider: str, key_id: str) -> RootKey | None:
        """Return the entry of a root key; a local one goes by its id, whichever ring it was first made in."""
        local = provider.startswith(LOCAL_SCHEME)
        for entry in self.keys:
            same = entry.provider.startswith(LOCAL_SCHEME) if local else entry.provider == provider
            if same and entry.key_id == key_id:
                return entry
        return None


class _Format1(_Part):
    format: Literal[1] = 1
    ring_id: _RingId
    current_root_key: str
    root_keys: Annotated[dict[str, _Key], Field(min_length=1, repr=False)]
    name_keys: Annotated[dict[str, _Key], Field(repr=False)]
    signing_seed: Annotated[_Key, Field(repr=False)]
    trusted: dict[str, _Key]


class _Format2(_Part):
    format: Literal[2] = 2
    ring_id: _RingId
    keys: tuple[RootKey, ...]
    services: dict[str, ServiceSettings]
    trusted: dict[str, _Key]
    trail: TrailEnd | None
    protection: Annotated[Protection | None, Field(discriminator="kind")]
    secrets: Annotated[Secrets | None, Field(repr=False)] = None
    sealed: str | None = None


def new_root_key() -> tuple[str, bytes]:
    """Return a fresh root key after its public id."""
    return "root-" + secrets.token_hex(8), new_key()


def read_key_ring(path: Path, unlock: Unlock) -> tuple[KeyRingFile, RingSeal | None]:
    """Read the file; the second is what sealed it, None for a file whose secrets are plain.

    Raises:
        NotFoundError: When there is none.
        RequestError: When its mode lets others than its owner reach it, or the passphrase is missing or wrong.
        IntegrityError: When it is not a key ring; the message quotes nothing of it.
        UnavailableError: When the file system refuses, or the key service that sealed it does not answer.
    """
    try:
        data = read_private(path, MAX_KEY_RING_BYTES + 1, "key ring")
    except NotFoundError as exc:
        raise NotFoundError(
            f"There is no key ring at {path}; make one with KeyRing.create, or restore it from its backup if "
            "this deployment has data already"
        ) from exc
    try:
        value = parse_json(data, MAX_KEY_RING_BYTES, name=f"The key ring {path}")
        parsed = (_Format2 if value.get("format") == 2 else _Format1).model_validate_json(data)
    except (ValidationError, IntegrityError):  # not chained: the text of the cause might quote the file
        raise _damaged(path) from None
    if isinstance(parsed, _Format1):
        return _of_format_1(parsed, path), None
    seal = unlock(parsed.protection, parsed.ring_id, parsed.services) if parsed.protection else None
    return _of_format_2(parsed, seal, value, path), seal


def write_key_ring(
    path: Path, contents: KeyRingFile, seal: RingSeal | None, give_name: Callable[[Path, Path], None]
) -> None:
    """Write a complete, durable file beside `path` and give it its name by os.link or os.replace.

    Raises:
        OSError: When the file system refuses, FileExistsError by os.link included; no file stays behind.
        RequestError: When the ring would be too large to be read again.
    """
    data = _to_bytes(contents, seal)
    if len(data) > MAX_KEY_RING_BYTES:
        raise RequestError(
            f"The key ring {path} would have {len(data)} bytes, more than the limit of {MAX_KEY_RING_BYTES}; isolate "
            "workspaces instead of single assets"
        )
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        give_name(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _to_bytes(contents: KeyRingFile, seal: RingSeal | None) -> bytes:
    plain = contents.secrets.model_dump()
    if seal is None and _fits_format_1(contents):
        current = next(entry.key_id for entry in contents.keys if entry.current)
        head = {"format": 1, "ring_id": contents.ring_id, "current_root_key": current}
        return canonical_json(head | plain | contents.model_dump(include={"trusted"}))
    public = {"format": 2, **contents.model_dump(mode="json", exclude={"secrets"})}
    public["protection"] = seal.protection.model_dump() if seal else None
    if seal is None:
        return canonical_json(public | {"secrets": plain})
    sealed = seal.seal(canonical_json(plain), canonical_json(public), contents.ring_id)
    return canonical_json(public | {"sealed": encode_base64(sealed)})


def _fits_format_1(contents: KeyRingFile) -> bool:
    plain = all(
        entry.provider == contents.local_uri and entry.scope == DEPLOYMENT and entry.erased is None
        for entry in contents.keys
    )
    current = sum(entry.current for entry in contents.keys) == 1
    listed = {entry.key_id for entry in contents.keys} == set(contents.secrets.root_keys)
    return plain and current and listed and not contents.services and contents.trail is None


def _of_format_1(parsed: _Format1, path: Path) -> KeyRingFile:
    if parsed.current_root_key not in parsed.root_keys:
        raise _damaged(path)
    uri = LOCAL_SCHEME + parsed.ring_id
    keys = tuple(
        RootKey(provider=uri, key_id=key_id, current=key_id == parsed.current_root_key) for key_id in parsed.root_keys
    )
    plain = Secrets(root_keys=parsed.root_keys, name_keys=parsed.name_keys, signing_seed=parsed.signing_seed)
    return KeyRingFile(ring_id=parsed.ring_id, keys=keys, trusted=parsed.trusted, secrets=plain)


def _of_format_2(parsed: _Format2, seal: RingSeal | None, value: dict[str, Any], path: Path) -> KeyRingFile:
    plain = parsed.secrets
    if (seal is None) != (plain is not None) or (seal is None) != (parsed.sealed is None):
        raise _damaged(path)
    if seal is not None:
        public = canonical_json({name: part for name, part in value.items() if name != "sealed"})
        try:
            text = seal.open(decode_base64(parsed.sealed or ""), public, parsed.ring_id)
            plain = Secrets.model_validate_json(text)
        except (ValidationError, IntegrityError):
            raise _damaged(path) from None
    if plain is None or not _consistent(parsed.keys):
        raise _damaged(path)
    return KeyRingFile(
        ring_id=parsed.ring_id,
        keys=parsed.keys,
        services=parsed.services,
        trusted=parsed.trusted,
        trail=parsed.trail,
        secrets=plain,
    )


def _consistent(keys: Iterable[RootKey]) -> bool:
    """Whether each scope has at most one current key, which is not destroyed."""
    current = [entry for entry in keys if entry.current]
    return len({entry.scope for entry in current}) == len(current) and not any(entry.erased for entry in current)


def _damaged(path: Path) -> IntegrityError:
    return IntegrityError(f"{path} is not a key ring, or it is damaged; restore it from its backup")
