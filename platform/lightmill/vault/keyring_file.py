"""The file of the local key ring: its fields, how it is read, and how it is written in one step."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from lightmill.errors import IntegrityError, NotFoundError, RequestError, UnavailableError
from lightmill.vault.canonical import canonical_json, decode_base64, encode_base64, parse_json
from lightmill.vault.confined import Confined
from lightmill.vault.derivation import KEY_BYTES, new_key
from lightmill.vault.signing import Signer

DEFAULT_WORKSPACE = "default"
MAX_KEY_RING_BYTES = 4 << 20


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


class KeyRingFile(Confined, BaseModel):
    """What the file says. Neither its text form nor an error about it shows a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    format: Literal[1] = 1
    ring_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    current_root_key: str
    root_keys: Annotated[dict[str, _Key], Field(min_length=1, repr=False)]
    name_keys: Annotated[dict[str, _Key], Field(repr=False)]
    signing_seed: Annotated[_Key, Field(repr=False)]
    trusted: dict[str, _Key]

    @classmethod
    def fresh(cls) -> KeyRingFile:
        """Return new random keys and the workspace "default", trusting its own signatures."""
        key_id, root_key = new_root_key()
        seed = new_key()
        signer = Signer(seed)
        return cls(
            ring_id=secrets.token_hex(8),
            current_root_key=key_id,
            root_keys={key_id: root_key},
            name_keys={DEFAULT_WORKSPACE: new_key()},
            signing_seed=seed,
            trusted={signer.key_id: signer.public_key},
        )

    def replaced(self, **changes: object) -> KeyRingFile:
        """Return a copy with some fields replaced."""
        return self.model_copy(update=changes)


def new_root_key() -> tuple[str, bytes]:
    """Return a fresh root key after its public id."""
    return "root-" + secrets.token_hex(8), new_key()


def read_key_ring(path: Path) -> KeyRingFile:
    """Read the file.

    Raises:
        NotFoundError: When there is none.
        RequestError: When its mode lets others than its owner reach it.
        IntegrityError: When it is not a key ring; the message quotes nothing of it.
        UnavailableError: When the file system refuses.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_KEY_RING_BYTES + 1)
    except FileNotFoundError as exc:
        raise NotFoundError(
            f"There is no key ring at {path}; make one with KeyRing.create, or restore it from its backup if "
            "this deployment has data already"
        ) from exc
    except OSError as exc:
        raise UnavailableError(f"The key ring {path} could not be read: {exc.strerror}") from exc
    if mode & 0o077:
        raise RequestError(f"The key ring {path} has mode {mode:04o}, so others can reach it; run: chmod 600 {path}")
    try:
        contents = KeyRingFile.model_validate(parse_json(data, MAX_KEY_RING_BYTES, name=f"The key ring {path}"))
    except (ValidationError, IntegrityError):  # not chained: the text of the cause might quote the file
        contents = None
    if contents is None or contents.current_root_key not in contents.root_keys:
        raise IntegrityError(f"{path} is not a key ring, or it is damaged; restore it from its backup")
    return contents


def write_key_ring(path: Path, contents: KeyRingFile, give_name: Callable[[Path, Path], None]) -> None:
    """Write a complete, durable file beside `path` and give it its name by os.link or os.replace.

    Raises:
        OSError: When the file system refuses, FileExistsError by os.link included; no file stays behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(canonical_json(contents.model_dump()))
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
