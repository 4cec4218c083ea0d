"""Rebuild: the catalog's registry tables from the object store alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightmill.errors import ConflictError
from lightmill.records.care import RebuildReport
from lightmill.registry.care.ledger import Ledger
from lightmill.registry.care.logs import part_of
from lightmill.registry.registry import Registry

if TYPE_CHECKING:
    from lightmill.catalog import Catalog


def rebuild(registry: Registry, catalog: Catalog, *, filling: bool = False) -> RebuildReport:
    """List every version and alias of the store in an empty catalog, and raise its high-water marks.

    The new marks are what the store shows now: a store that was rolled back before is not noticed any more.
    Endpoints, API keys, jobs and metrics by epoch are not on the store and do not come back.

    Args:
        registry: The registry with this catalog.
        catalog: Where to; migrated.
        filling: The catalog may hold rows already; what is lacking is added.

    Raises:
        ConflictError: The catalog holds versions or marks already.
        IntegrityError: The key ring is not the store's.
        UnavailableError: Store or catalog do not answer; run it again.
    """
    if not filling and catalog.marks.all():
        raise ConflictError(
            f"The catalog {catalog.url} lists versions already and was left as it is; rebuild an empty one, or add "
            "what is lacking with `lightmill registry repair`."
        )
    registry.heal()
    ledger = Ledger(registry.store, registry.keyring.trusted, registry.store_id)
    listed = ledger.refresh()
    recorded = {mid: catalog.versions.recorded(mid) for mid in ledger.assets()}
    aliases = {(name.split("/")[1], name.split("/")[3]) for name in listed if part_of(name) == "a"}
    alive = sorted(ledger.alive(), key=lambda version: (version.mid, version.seq))
    return RebuildReport(
        assets=sum(bool(found) for found in recorded.values()),
        versions=sum(version.seq in recorded[version.mid] for version in alive),
        aliases=sum(catalog.marks.get(mid, f"a/{alias}") is not None for mid, alias in aliases),
        unreadable=tuple(version.name for version in alive if version.seq not in recorded[version.mid]),
    )
