"""Passphrases, and the slow functions that turn one into a key.

A passphrase comes from a file of mode 0600 or from a prompt, never from an argument or an environment
variable: both show in process lists. The environment only says where the file is.
Sources: RFC 9106 (Argon2id; 64 MiB, 3 passes and 4 lanes are its second recommended choice), RFC 7914 (scrypt).
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Annotated, Literal, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lightmill.errors import NotFoundError, RequestError, UnavailableError
from lightmill.vault.canonical import decode_base64, encode_base64
from lightmill.vault.confined import Confined
from lightmill.vault.derivation import KEY_BYTES

PASSPHRASE_FILE = "LIGHTMILL_PASSPHRASE_FILE"  # noqa: S105 - the name of a variable
"""The environment variable that names the file."""

MIN_PASSPHRASE_CHARS = 12
MAX_PASSPHRASE_BYTES = 1024
MAX_KDF_BYTES = 1 << 30
SALT_BYTES = 16

_Salt = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{22}==$")]


class Passphrase(Confined):
    """A passphrase in memory; it is not shown, copied or pickled."""

    __slots__ = ("_data",)

    def __init__(self, text: str) -> None:
        self._data = text.encode()
        if not self._data or len(self._data) > MAX_PASSPHRASE_BYTES:
            raise RequestError(f"A passphrase has 1 to {MAX_PASSPHRASE_BYTES} bytes; this one has {len(self._data)}")

    def __repr__(self) -> str:
        return "Passphrase(...)"

    @classmethod
    def from_file(cls, path: str | Path) -> Passphrase:
        """Read a passphrase: the file's text without the line break at its end.

        Raises:
            NotFoundError: When there is no such file.
            RequestError: When others than its owner can reach it, or it is empty, too long or not UTF-8.
            UnavailableError: When the file system refuses.
        """
        path = Path(path).expanduser()
        try:
            return cls(read_private(path, MAX_PASSPHRASE_BYTES + 2, "passphrase file").decode().rstrip("\r\n"))
        except UnicodeDecodeError:
            raise RequestError(f"The passphrase file {path} is not UTF-8 text") from None

    @classmethod
    def from_environment(cls) -> Passphrase | None:
        """Read the file that LIGHTMILL_PASSPHRASE_FILE names; None when it names none.

        Workers and replicas open a protected key ring this way: their node's environment has the variable.
        """
        path = os.environ.get(PASSPHRASE_FILE)
        return cls.from_file(path) if path else None

    def check_strength(self) -> None:
        """Return when the passphrase is long enough to protect something new.

        Raises:
            RequestError: When it has under 12 characters.
        """
        if len(self._data.decode()) < MIN_PASSPHRASE_CHARS:
            raise RequestError(
                f"A new passphrase needs at least {MIN_PASSPHRASE_CHARS} characters; six random words do well"
            )

    def derive(self, kdf: PassphraseKdf) -> bytes:
        """Return 32 bytes; slow and large on purpose (Argon2id: about 0.2 s and 64 MiB).

        Raises:
            UnavailableError: When the library was built without the function, or memory is short.
        """
        salt = decode_base64(kdf.salt)
        try:
            if isinstance(kdf, Argon2idKdf):
                argon2 = Argon2id(
                    salt=salt,
                    length=KEY_BYTES,
                    iterations=kdf.iterations,
                    lanes=kdf.lanes,
                    memory_cost=kdf.memory_kib,
                )
                return argon2.derive(self._data)
            return Scrypt(salt=salt, length=KEY_BYTES, n=1 << kdf.log2_n, r=kdf.r, p=kdf.p).derive(self._data)
        except (UnsupportedAlgorithm, MemoryError) as exc:
            raise UnavailableError(f"{kdf.kind} cannot run here: {exc}. Free memory, or use the other kdf") from exc


class Argon2idKdf(BaseModel):
    """Argon2id (RFC 9106) and its parameters; out of bounds they are refused before any work."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["argon2id"] = "argon2id"
    memory_kib: Annotated[int, Field(ge=8192, le=MAX_KDF_BYTES >> 10)] = 65536
    iterations: Annotated[int, Field(ge=1, le=16)] = 3
    lanes: Annotated[int, Field(ge=1, le=16)] = 4
    salt: _Salt

    @classmethod
    def fresh(cls, *, memory_kib: int = 65536, iterations: int = 3, lanes: int = 4) -> Self:
        """Return parameters, by default the recommended ones, with a fresh salt."""
        salt = encode_base64(secrets.token_bytes(SALT_BYTES))
        return cls(memory_kib=memory_kib, iterations=iterations, lanes=lanes, salt=salt)


class ScryptKdf(BaseModel):
    """Scrypt (RFC 7914) and its parameters; out of bounds they are refused before any work."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["scrypt"] = "scrypt"
    log2_n: Annotated[int, Field(ge=14, le=20)] = 16
    r: Annotated[int, Field(ge=8, le=32)] = 8
    p: Annotated[int, Field(ge=1, le=16)] = 1
    salt: _Salt

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if 128 * self.r << self.log2_n > MAX_KDF_BYTES:
            raise ValueError("scrypt would need more than 1 GiB")
        return self

    @classmethod
    def fresh(cls, *, log2_n: int = 16, r: int = 8, p: int = 1) -> Self:
        """Return parameters, by default the recommended ones, with a fresh salt."""
        return cls(log2_n=log2_n, r=r, p=p, salt=encode_base64(secrets.token_bytes(SALT_BYTES)))


PassphraseKdf = Argon2idKdf | ScryptKdf


def read_private(path: Path, max_bytes: int, what: str) -> bytes:
    """Return the bytes of a small secret file; at most `max_bytes` are read.

    Raises:
        NotFoundError: When there is none.
        RequestError: When others than its owner can reach it.
        UnavailableError: When the file system refuses.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(max_bytes)
    except FileNotFoundError as exc:
        raise NotFoundError(f"There is no {what} at {path}") from exc
    except OSError as exc:
        raise UnavailableError(f"The {what} {path} could not be read: {exc.strerror}") from exc
    if mode & 0o077:
        raise RequestError(f"The {what} {path} has mode {mode:04o}, so others can reach it; run: chmod 600 {path}")
    return data
