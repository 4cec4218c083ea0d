"""The adapters of one process, made from the settings."""

from __future__ import annotations

from dataclasses import dataclass

from lightmill.catalog import Catalog
from lightmill.registry import PolicyBook, Registry, RegistryLocation
from lightmill.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What an entry point works with."""

    settings: Settings
    catalog: Catalog
    registry: Registry
    location: RegistryLocation

    @property
    def policies(self) -> PolicyBook:
        """The masking policies by name and number."""
        return PolicyBook(self.catalog, self.registry.keyring)


def location_of(settings: Settings) -> RegistryLocation:
    """Return where this deployment's registry is."""
    return RegistryLocation(
        store_url=settings.store_url,
        keyring_path=str(settings.keyring_path.absolute()),
        workspace=settings.workspace,
        cache_path=str(settings.cache_folder),
        cache_bytes=settings.cache_limit_bytes,
    )


def open_platform(settings: Settings) -> Platform:
    """Open catalog, store and key ring, which `bootstrap` has made.

    The registry here reads the store itself, past this node's cache, since it also checks, copies and repairs;
    replicas and workers open `location`, which has the cache.

    Raises:
        NotFoundError: There is no store or no key ring yet.
        UnavailableError: The catalog does not answer.
        IntegrityError: The key ring or the store is damaged, or of a newer format.
    """
    catalog = Catalog.open(settings.catalog_url)
    location = location_of(settings)
    registry = location.model_copy(update={"cache_bytes": 0}).open(catalog)
    return Platform(settings=settings, catalog=catalog, registry=registry, location=location)
