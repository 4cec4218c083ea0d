"""The key provider of a deployment: it picks the root key by scope and the key service by URI."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from lightmill.errors import ErasedError, IntegrityError, RequestError
from lightmill.vault.confined import Confined
from lightmill.vault.derivation import KEY_BYTES
from lightmill.vault.keyring_file import LOCAL_SCHEME, KeyRingFile, RootKey
from lightmill.vault.local_provider import LocalKeys
from lightmill.vault.scopes import DEPLOYMENT, describe, scopes_of
from lightmill.vault.services import KeyService, ServiceSettings
from lightmill.vault.wrapping import KeyProvider, Wrapped


def open_service(settings: ServiceSettings) -> KeyService:
    """Return the adapter of a remote key service; its library is loaded here and not before.

    Raises:
        RequestError: When its library is not installed.
    """
    if settings.kind == "aws-kms":
        from lightmill.vault.aws_kms import AwsKms

        return AwsKms(settings)
    from lightmill.vault.vault_transit import VaultTransit

    return VaultTransit(settings)


class Keychain(Confined, KeyProvider):
    """Wraps under the key of the narrowest scope that a context names; unwraps with whatever wrapped.

    A scope that once had a key of its own never falls back to a wider one: after its key was destroyed,
    wrapping for it is refused until it gets a new key.
    """

    __slots__ = ("_contents", "_local", "_lock", "_path", "_services")

    def __init__(self, path: Path, contents: Callable[[], KeyRingFile], local: LocalKeys) -> None:
        self._path = path
        self._contents = contents
        self._local = local
        self._services: dict[str, tuple[ServiceSettings, KeyService]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Keychain(uri={self.uri!r}, key_id={self.key_id!r})"

    @property
    def uri(self) -> str:
        """The service that holds the current root key of the deployment."""
        return self.current(DEPLOYMENT).provider

    @property
    def key_id(self) -> str:
        """The current root key of the deployment."""
        return self.current(DEPLOYMENT).key_id

    def current(self, scope: str) -> RootKey:
        """Return the current root key of exactly this scope.

        Raises:
            RequestError: When the scope has no key of its own.
        """
        for entry in self._contents().keys:
            if entry.scope == scope and entry.current:
                return entry
        raise RequestError(f"The key ring {self._path} has no current root key for {describe(scope)}")

    def target(self, context: Mapping[str, str]) -> tuple[str, str]:
        """Return service and root key that `wrap` uses for this context; see the port."""
        entry = self._entry_for(context)
        return entry.provider, entry.key_id

    def service(self, uri: str) -> KeyService:
        """Return the service of this URI.

        Raises:
            RequestError: When the ring is not configured for it.
        """
        if uri.startswith(LOCAL_SCHEME):
            return self._local
        settings = self._contents().services.get(uri)
        if settings is None:
            raise RequestError(
                f"The key ring {self._path} is not configured for {uri}; add it with `lightmill keys use`"
            )
        with self._lock:
            known = self._services.get(uri)
            if known is None or known[0] != settings:
                known = self._services[uri] = settings, open_service(settings)
        return known[1]

    def wrap(self, key: bytes, context: Mapping[str, str]) -> Wrapped:
        """Wrap a key; see the port."""
        if len(key) != KEY_BYTES:
            raise RequestError(f"A key has {KEY_BYTES} bytes, this one has {len(key)}; make one with new_key()")
        entry = self._entry_for(context)
        ciphertext = self.service(entry.provider).wrap(entry.key_id, key, context)
        return Wrapped(provider=entry.provider, key_id=entry.key_id, ciphertext=ciphertext)

    def unwrap(self, wrapped: Wrapped, context: Mapping[str, str]) -> bytes:
        """Unwrap a key; see the port."""
        key = self._unwrapping(wrapped).unwrap(wrapped.key_id, wrapped.ciphertext, context)
        if len(key) != KEY_BYTES:
            raise IntegrityError(f"{wrapped.provider} unwrapped {len(key)} bytes where a key has {KEY_BYTES}; refused")
        return key

    def rewrap(self, wrapped: Wrapped, context: Mapping[str, str]) -> Wrapped:
        """Wrap again under the key that is current for the context; inside the service where that can be."""
        service, entry = self._unwrapping(wrapped), self._entry_for(context)
        target = self.service(entry.provider)
        if target is not service:
            return self.wrap(service.unwrap(wrapped.key_id, wrapped.ciphertext, context), context)
        ciphertext = service.rewrap(wrapped.key_id, wrapped.ciphertext, context, entry.key_id)
        return Wrapped(provider=entry.provider, key_id=entry.key_id, ciphertext=ciphertext)

    def health(self) -> None:
        """Return when every current root key can wrap now; see the port."""
        for entry in self._contents().keys:
            if entry.current:
                self.service(entry.provider).check(entry.key_id)

    def _entry_for(self, context: Mapping[str, str]) -> RootKey:
        keys = self._contents().keys
        for scope in scopes_of(context):
            entries = [entry for entry in keys if entry.scope == scope]
            for entry in entries:
                if entry.current:
                    return entry
            if entries:
                raise RequestError(
                    f"The root key of {describe(scope)} was erased, so nothing can be written there. Choose "
                    "another name, or give it a new key with `lightmill keys isolate`"
                )
        raise RequestError(f"The key ring {self._path} has no current root key; see `lightmill keys list`")

    def _unwrapping(self, wrapped: Wrapped) -> KeyService:
        entry = self._contents().find(wrapped.provider, wrapped.key_id)
        if entry is None:
            raise IntegrityError(
                f"This data needs the root key {wrapped.key_id} of {wrapped.provider}, which the key ring "
                f"{self._path} ({self._contents().ring_id}) does not hold; point to the key ring that wrote it, "
                "or restore that ring from its backup"
            )
        if entry.erased is not None:
            raise ErasedError(
                f"This data was erased at {entry.erased.at}, receipt {entry.erased.receipt}: its root key "
                f"{wrapped.key_id} was destroyed on purpose and nothing brings it back"
            )
        try:
            return self.service(wrapped.provider)
        except RequestError as exc:
            raise IntegrityError(f"This data was wrapped by {wrapped.provider}. {exc.message}") from exc
