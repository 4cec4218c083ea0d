"""The local key ring: one file that holds every secret of a deployment, or says which service holds it.

The file has mode 0600. It holds the root keys by id (one of them current in each scope), the name key of each
workspace, the seed of the signing key and the public keys of trusted publishers. Its secrets may be sealed
under a passphrase or a key service. Who can open the file has everything; who loses it has lost the data, so
it belongs in a backup that is not the store's.

A ring that another process changes is read again at the next use: a rotation or an erasure takes effect in
running replicas without a restart.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightmill.errors import ConflictError, NotFoundError, RequestError, UnavailableError
from lightmill.records.base import now_iso
from lightmill.vault.canonical import encode_base64
from lightmill.vault.confined import Confined
from lightmill.vault.derivation import KEY_BYTES, asset_id, dedup_key, masking_key, new_key
from lightmill.vault.keychain import Keychain
from lightmill.vault.keyring_access import RingAccess
from lightmill.vault.keyring_file import Erasure, KeyRingFile, RootKey, TrailEnd, write_key_ring
from lightmill.vault.local_provider import LocalKeys
from lightmill.vault.passphrase import Argon2idKdf, Passphrase, PassphraseKdf
from lightmill.vault.ring_seal import RingSeal, ServiceWrap, seal_context
from lightmill.vault.scopes import DEPLOYMENT, describe
from lightmill.vault.services import ServiceSettings
from lightmill.vault.signing import Signer, key_id_of


class KeyRing(Confined):
    """An opened key ring file. Made by `KeyRing.create` or `KeyRing.open`; printing it shows no secret."""

    __slots__ = ("_file", "_keychain", "_path", "_signer")

    def __init__(self, path: Path, passphrase: Passphrase | None = None) -> None:
        self._path = path
        self._file = RingAccess(path, passphrase)
        self._signer: tuple[KeyRingFile, Signer] | None = None
        local = LocalKeys(path, lambda: self._contents, self._file.change)
        self._keychain = Keychain(path, lambda: self._contents, local)

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
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_key_ring(path, KeyRingFile.fresh(), None, os.link)
        except FileExistsError as exc:
            raise ConflictError(
                f"A key ring exists at {path} and was left as it is; open it, or choose another path"
            ) from exc
        except OSError as exc:
            raise UnavailableError(f"The key ring {path} could not be written: {exc.strerror}") from exc
        return cls(path)

    @classmethod
    def open(cls, path: str | Path, passphrase: Passphrase | None = None) -> KeyRing:
        """Read a key ring.

        Args:
            path: The file.
            passphrase: What opens a protected ring; without one, the file that the environment variable
                LIGHTMILL_PASSPHRASE_FILE names.

        Raises:
            NotFoundError: When there is no such file.
            RequestError: When the file can be read or written by others than its owner, or when it is
                protected and the passphrase is missing or wrong.
            IntegrityError: When it is not a key ring.
            UnavailableError: When the file system refuses, or the key service that sealed it does not answer.
        """
        return cls(Path(path).absolute(), passphrase)

    @property
    def path(self) -> Path:
        """Where the file is; what to pass to another process."""
        return self._path

    @property
    def ring_id(self) -> str:
        """The public id of this key ring, 16 hex characters."""
        return self._contents.ring_id

    @property
    def provider(self) -> Keychain:
        """What wraps version keys under the root keys of this ring, local or in a key service."""
        return self._keychain

    @property
    def signer(self) -> Signer:
        """The signing key of this ring's owner."""
        contents = self._contents
        if self._signer is None or self._signer[0] is not contents:
            self._signer = contents, Signer(contents.secrets.signing_seed)
        return self._signer[1]

    @property
    def trusted(self) -> Mapping[str, bytes]:
        """The allow-list of publishers: key id to raw public key, 32 bytes."""
        return dict(self._contents.trusted)

    @property
    def workspaces(self) -> tuple[str, ...]:
        """The workspaces that have a name key, sorted."""
        return tuple(sorted(self._contents.secrets.name_keys))

    @property
    def root_key_ids(self) -> tuple[str, ...]:
        """The ids of all root keys that can still unwrap, sorted; `provider.key_id` is the current one."""
        return tuple(sorted(entry.key_id for entry in self._contents.keys if entry.erased is None))

    @property
    def root_keys(self) -> tuple[RootKey, ...]:
        """Everything that is known about the root keys, tombstones of destroyed ones included; no key itself."""
        return self._contents.keys

    @property
    def services(self) -> Mapping[str, ServiceSettings]:
        """The key services that this ring may use, by URI."""
        return dict(self._contents.services)

    @property
    def protection(self) -> str:
        """What the secrets in the file are sealed under: "none", "argon2id", "scrypt" or "service"."""
        found = self._file.protection
        return found.kind if found else "none"

    @property
    def protection_key(self) -> tuple[str, str] | None:
        """Provider and id of the root key that seals this ring, when a key service does."""
        found = self._file.protection
        return (found.provider, found.key_id) if isinstance(found, ServiceWrap) else None

    @property
    def trail(self) -> TrailEnd | None:
        """The last receipt of the audit trail beside the ring that the ring knows of."""
        return self._contents.trail

    def masking_key(self, workspace: str) -> bytes:
        """Return the key of a workspace's pseudonyms, 32 bytes; errors as `workspace_name_key`."""
        return masking_key(self.workspace_name_key(workspace))

    def workspace_name_key(self, workspace: str) -> bytes:
        """Return the secret under which the names of a workspace become asset ids.

        Raises:
            NotFoundError: When the ring does not know the workspace.
        """
        try:
            return self._contents.secrets.name_keys[workspace]
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
        self._file.change(lambda now: now.with_secrets(name_keys={workspace: name_key} | now.secrets.name_keys))

    def add_root_key(self, scope: str = DEPLOYMENT, *, service: str | None = None, key_id: str | None = None) -> str:
        """Make a root key, make it current in its scope, save the ring and return the key's id.

        Older root keys stay and unwrap what they wrapped. Envelopes move over by `rewrap_envelope`.

        Args:
            scope: What the key is for; by default everything that has no key of its own.
            service: URI of the key service that holds it, by default the one of the deployment's current key.
            key_id: A key that the service's operator made, instead of a new one.

        Raises:
            RequestError: When the ring does not know the service, when the service refuses, or when the key
                serves another scope or was destroyed.
            UnavailableError: When the service does not answer or the file system refuses; the ring is then
                unchanged.
        """
        holder = self._keychain.service(service or self._keychain.uri)
        label = f"lightmill-{self.ring_id}"
        made = holder.check(key_id) if key_id else holder.create(label)
        entry = RootKey(provider=holder.uri, key_id=made, scope=scope, created=now_iso(), current=True)

        def added(now: KeyRingFile) -> KeyRingFile:
            known = now.find(entry.provider, entry.key_id)
            if known and (known.erased or known.scope != scope):
                raise RequestError(
                    f"The root key {made} was destroyed or serves {describe(known.scope)}; one key serves one scope"
                )
            others = (
                other.model_copy(update={"current": False}) if other.scope == scope else other
                for other in now.keys
                if other is not known
            )
            return now.replaced(keys=(*others, known.model_copy(update={"current": True}) if known else entry))

        self._file.change(added)
        return made

    def add_service(self, settings: ServiceSettings) -> str:
        """Let the ring use a key service and save it; return the service's URI.

        Raises:
            UnavailableError: When the file system refuses; the ring is then unchanged.
        """
        self._file.change(lambda now: now.replaced(services=now.services | {settings.uri: settings}))
        return settings.uri

    def destroy_root_keys(self, keys: Sequence[RootKey], erasure: Erasure) -> dict[str, str]:
        """Destroy root keys in their services, leave tombstones and save the ring; repeating it is safe.

        Returns:
            Key id to what `KeyService.destroy` said: gone now, or until when its operators can take it back.

        Raises:
            RequestError: When a service refuses.
            UnavailableError: When a service does not answer or the file system refuses; a retry is allowed.
        """
        ids = {(key.provider, key.key_id) for key in keys}
        final = {key.key_id: self._keychain.service(key.provider).destroy(key.key_id) for key in keys}

        def buried(key: RootKey) -> RootKey:
            dead = (key.provider, key.key_id) in ids
            return key.model_copy(update={"current": False, "erased": erasure}) if dead else key

        self._file.change(lambda now: now.replaced(keys=tuple(buried(key) for key in now.keys)))
        return final

    def remember_trail(self, end: TrailEnd) -> None:
        """Note the end of the audit trail, so that a trail that is cut later is noticed; save the ring.

        Raises:
            UnavailableError: When the file system refuses; the ring is then unchanged.
        """

        def noted(now: KeyRingFile) -> KeyRingFile:
            return now if now.trail and now.trail.n >= end.n else now.replaced(trail=end)

        self._file.change(noted)

    def protect(self, passphrase: Passphrase, kdf: PassphraseKdf | None = None) -> None:
        """Seal the secrets in the file under a passphrase, by default through Argon2id, and save it.

        The file's older bytes may survive on the disk and in backups: a ring that may have been read needs
        new keys, not a passphrase.

        Raises:
            RequestError: When the passphrase has under 12 characters.
            UnavailableError: When the file system refuses; the ring is then unchanged.
        """
        passphrase.check_strength()
        protection = kdf or Argon2idKdf.fresh()
        self._file.reseal(RingSeal(passphrase.derive(protection), protection), passphrase)

    def protect_by_service(self) -> None:
        """Seal the secrets in the file under the deployment's current root key in its key service; save it.

        Raises:
            RequestError: When that key lies in this file itself, or the service refuses.
            UnavailableError: When the service does not answer or the file system refuses.
        """
        entry = self._keychain.current(DEPLOYMENT)
        if entry.provider == self._contents.local_uri:
            raise RequestError("The current root key lies in the key ring itself; choose a service with `keys use`")
        key = new_key()
        wrapped = self._keychain.service(entry.provider).wrap(entry.key_id, key, seal_context(self.ring_id))
        protection = ServiceWrap(provider=entry.provider, key_id=entry.key_id, wrapped=encode_base64(wrapped))
        self._file.reseal(RingSeal(key, protection))

    def unprotect(self) -> None:
        """Write the secrets into the file as they are, guarded by its mode alone.

        Raises:
            UnavailableError: When the file system refuses; the ring is then unchanged.
        """
        self._file.reseal(None)

    def trust(self, public_key: bytes) -> str:
        """Add a publisher's raw Ed25519 public key to the allow-list, save the ring and return its id.

        Raises:
            RequestError: When the key does not have 32 bytes.
            UnavailableError: When the file system refuses; the ring is then unchanged.
        """
        if len(public_key) != KEY_BYTES:
            raise RequestError(f"An Ed25519 public key has {KEY_BYTES} bytes, this one has {len(public_key)}")
        key_id = key_id_of(public_key)
        self._file.change(lambda now: now.replaced(trusted=now.trusted | {key_id: public_key}))
        return key_id

    def distrust(self, key_id: str) -> None:
        """Take a publisher off the allow-list and save the ring: what that key signed is refused from now on.

        Raises:
            NotFoundError: When the key is not on the list.
            UnavailableError: When the file system refuses; the ring is then unchanged.
        """
        if key_id not in self._contents.trusted:
            raise NotFoundError(f"The key ring {self._path} does not trust {key_id}; nothing to take back")
        self._file.change(lambda now: now.replaced(trusted={k: v for k, v in now.trusted.items() if k != key_id}))

    @property
    def _contents(self) -> KeyRingFile:
        return self._file.contents
