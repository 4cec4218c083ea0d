"""The local key ring: one file that holds every secret of a deployment without a key service.

The file has mode 0600. It holds the root keys by id (one of them current), the name key of each workspace,
the seed of the signing key and the public keys of trusted publishers. Who has the file has everything; who
loses it has lost the data, so it belongs in a backup that is not the store's.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from lightmill.errors import ConflictError, NotFoundError, RequestError, UnavailableError
from lightmill.vault.confined import Confined
from lightmill.vault.derivation import KEY_BYTES, asset_id, dedup_key, new_key
from lightmill.vault.keyring_file import KeyRingFile, new_root_key, read_key_ring, write_key_ring
from lightmill.vault.local_provider import LocalKeyProvider
from lightmill.vault.signing import Signer, key_id_of


class KeyRing(Confined):
    """An opened key ring file. Made by `KeyRing.create` or `KeyRing.open`; printing it shows no secret."""

    __slots__ = ("_contents", "_path", "_provider", "_signer")

    def __init__(self, path: Path, contents: KeyRingFile) -> None:
        self._path = path
        self._adopt(contents)
        self._provider = LocalKeyProvider(path, lambda: self._contents)

    def __repr__(self) -> str:
        return f"KeyRing(path={str(self._path)!r}, ring_id={self.ring_id!r})"

    @classmethod
    def create(cls, path: str | Path) -> KeyRing:
        """Make a new key ring with fresh keys and the workspace "default", trusting its own signatures.

        Of several processes that do this at once exactly one succeeds, and the file is complete and durable
        before it has its name. A missing directory is made with mode 0700.

        Raises:
            ConflictError: When the file exists; it is never overwritten.
            UnavailableError: When the file system refuses.
        """
        path = Path(path).absolute()
        contents = KeyRingFile.fresh()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_key_ring(path, contents, os.link)
        except FileExistsError as exc:
            raise ConflictError(
                f"A key ring exists at {path} and was left as it is; open it, or choose another path"
            ) from exc
        except OSError as exc:
            raise UnavailableError(f"The key ring {path} could not be written: {exc.strerror}") from exc
        return cls(path, contents)

    @classmethod
    def open(cls, path: str | Path) -> KeyRing:
        """Read a key ring.

        Raises:
            NotFoundError: When there is no such file.
            RequestError: When the file can be read or written by others than its owner.
            IntegrityError: When it is not a key ring.
            UnavailableError: When the file system refuses.
        """
        path = Path(path).absolute()
        return cls(path, read_key_ring(path))

    @property
    def path(self) -> Path:
        """Where the file is; what to pass to another process."""
        return self._path

    @property
    def ring_id(self) -> str:
        """The public id of this key ring, 16 hex characters."""
        return self._contents.ring_id

    @property
    def provider(self) -> LocalKeyProvider:
        """What wraps version keys under the root keys of this ring."""
        return self._provider

    @property
    def signer(self) -> Signer:
        """The signing key of this ring's owner."""
        return self._signer

    @property
    def trusted(self) -> Mapping[str, bytes]:
        """The allow-list of publishers: key id to raw public key, 32 bytes."""
        return dict(self._contents.trusted)

    @property
    def workspaces(self) -> tuple[str, ...]:
        """The workspaces that have a name key, sorted."""
        return tuple(sorted(self._contents.name_keys))

    @property
    def root_key_ids(self) -> tuple[str, ...]:
        """The ids of all root keys, sorted; `provider.key_id` is the current one."""
        return tuple(sorted(self._contents.root_keys))

    def workspace_name_key(self, workspace: str) -> bytes:
        """Return the secret under which the names of a workspace become asset ids.

        Raises:
            NotFoundError: When the ring does not know the workspace.
        """
        try:
            return self._contents.name_keys[workspace]
        except KeyError:
            raise NotFoundError(
                f"The key ring {self._path} has no keys for workspace {workspace!r}; it knows "
                f"{', '.join(self.workspaces)}. Add it with add_workspace, or use the ring that made it"
            ) from None

    def asset_id(self, workspace: str, kind: str, name: str) -> str:
        """Return the id that stands for an asset on the store, 26 characters of [a-z2-7].

        Raises:
            NotFoundError: When the ring does not know the workspace.
        """
        return asset_id(self.workspace_name_key(workspace), kind, name)

    def dedup_key(self, workspace: str, mid: str) -> bytes:
        """Return the 32-byte key under which the pieces of one asset are fingerprinted.

        Raises:
            NotFoundError: When the ring does not know the workspace.
        """
        return dedup_key(self.workspace_name_key(workspace), mid)

    def add_workspace(self, workspace: str) -> None:
        """Give a workspace its own name key and save the ring; a workspace that has one keeps it.

        Raises:
            RequestError: When the name is empty.
            UnavailableError: When the file system refuses; the ring is then unchanged.
        """
        if not workspace:
            raise RequestError("A workspace needs a name; this one is empty")
        name_key = new_key()
        self._change(lambda now: now.replaced(name_keys={workspace: name_key} | now.name_keys))

    def add_root_key(self) -> str:
        """Make a new root key, make it current, save the ring and return the key's id.

        Older root keys stay and unwrap what they wrapped. Envelopes move over by `rewrap_envelope`.

        Raises:
            UnavailableError: When the file system refuses; the ring is then unchanged.
        """
        key_id, key = new_root_key()
        self._change(lambda now: now.replaced(root_keys=now.root_keys | {key_id: key}, current_root_key=key_id))
        return key_id

    def trust(self, public_key: bytes) -> str:
        """Add a publisher's raw Ed25519 public key to the allow-list, save the ring and return its id.

        Raises:
            RequestError: When the key does not have 32 bytes.
            UnavailableError: When the file system refuses; the ring is then unchanged.
        """
        if len(public_key) != KEY_BYTES:
            raise RequestError(f"An Ed25519 public key has {KEY_BYTES} bytes, this one has {len(public_key)}")
        key_id = key_id_of(public_key)
        self._change(lambda now: now.replaced(trusted=now.trusted | {key_id: public_key}))
        return key_id

    def distrust(self, key_id: str) -> None:
        """Take a publisher off the allow-list and save the ring: what that key signed is refused from now on.

        Raises:
            NotFoundError: When the key is not on the list.
            UnavailableError: When the file system refuses; the ring is then unchanged.
        """
        if key_id not in self._contents.trusted:
            raise NotFoundError(f"The key ring {self._path} does not trust {key_id}; nothing to take back")
        self._change(lambda now: now.replaced(trusted={k: v for k, v in now.trusted.items() if k != key_id}))

    def _change(self, change: Callable[[KeyRingFile], KeyRingFile]) -> None:
        """Read the file again under a lock, change it and replace it, so that no change is lost."""
        try:
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX)
                contents = change(read_key_ring(self._path))
                write_key_ring(self._path, contents, os.replace)
            finally:
                os.close(directory)
        except OSError as exc:
            raise UnavailableError(f"The key ring {self._path} could not be changed: {exc.strerror}") from exc
        self._adopt(contents)

    def _adopt(self, contents: KeyRingFile) -> None:
        self._contents = contents
        self._signer = Signer(contents.signing_seed)
