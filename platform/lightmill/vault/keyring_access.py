"""One key ring file in use: read again when it changed, unsealed when it is protected, changed under a lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lightmill.errors import RequestError, UnavailableError
from lightmill.vault.canonical import decode_base64
from lightmill.vault.confined import Confined
from lightmill.vault.keychain import open_service
from lightmill.vault.keyring_file import KeyRingFile, read_key_ring, write_key_ring
from lightmill.vault.passphrase import PASSPHRASE_FILE, Passphrase
from lightmill.vault.ring_seal import Protection, RingSeal, ServiceWrap, seal_context
from lightmill.vault.services import ServiceSettings


class RingAccess(Confined):
    """The contents of the file at `path`, kept up to date; see `KeyRing.open` for the errors of every member."""

    __slots__ = ("_known", "_passphrase", "_seal", "_stamp", "path")

    def __init__(self, path: Path, passphrase: Passphrase | None) -> None:
        self.path = path
        self._passphrase = passphrase
        self._seal: RingSeal | None = None
        self._load()

    def __repr__(self) -> str:
        return f"RingAccess({str(self.path)!r})"

    @property
    def contents(self) -> KeyRingFile:
        """What the file says now: read again when it is another file than the one that was read."""
        stamp = _stamp_of(self.path)
        if stamp is not None and stamp != self._stamp:
            self._load()
        return self._known

    @property
    def protection(self) -> Protection | None:
        """What the secrets are sealed under now; None when they are plain."""
        self.contents  # noqa: B018 - reads the file again if it changed
        return self._seal.protection if self._seal else None

    def change(
        self, change: Callable[[KeyRingFile], KeyRingFile], seal: RingSeal | Literal["same"] | None = "same"
    ) -> None:
        """Read the file again under a lock, change it and replace it, so that no change is lost.

        Args:
            change: The present contents to the new ones; what it raises leaves the file as it is.
            seal: What seals the secrets from now on; by default what sealed them before, None for nothing.

        Raises:
            UnavailableError: When the file system refuses; the file is then unchanged.
        """
        try:
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX)
                now, present = read_key_ring(self.path, self._unlock)
                contents, sealed = change(now), present if seal == "same" else seal
                write_key_ring(self.path, contents, sealed, os.replace)
                self._stamp, self._known, self._seal = _stamp_of(self.path), contents, sealed
            finally:
                os.close(directory)
        except OSError as exc:
            raise UnavailableError(f"The key ring {self.path} could not be changed: {exc.strerror}") from exc

    def reseal(self, seal: RingSeal | None, passphrase: Passphrase | None = None) -> None:
        """Write the same contents, sealed by something else; `passphrase` is what opens them from now on."""
        self.change(lambda now: now, seal)
        self._passphrase = passphrase or self._passphrase

    def _load(self) -> None:
        self._stamp = _stamp_of(self.path)
        self._known, self._seal = read_key_ring(self.path, self._unlock)

    def _unlock(self, protection: Protection, ring_id: str, services: dict[str, ServiceSettings]) -> RingSeal:
        """Return what opens a protected file; the slow step is taken once for each protection."""
        if self._seal is not None and self._seal.protection == protection:
            return self._seal
        if isinstance(protection, ServiceWrap):
            settings = services.get(protection.provider)
            if settings is None:
                raise RequestError(f"{self.path} is sealed by {protection.provider}, which it does not describe")
            wrapped = decode_base64(protection.wrapped, name=f"The key ring {self.path}")
            key = open_service(settings).unwrap(protection.key_id, wrapped, seal_context(ring_id))
            return RingSeal(key, protection)
        passphrase = self._passphrase or Passphrase.from_environment()
        if passphrase is None:
            raise RequestError(
                f"The key ring {self.path} is protected by a passphrase. Write it to a file of mode 0600 and "
                f"name that file in the environment variable {PASSPHRASE_FILE}"
            )
        return RingSeal(passphrase.derive(protection), protection)


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when the file is replaced; None while there is none, as during a restore."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
