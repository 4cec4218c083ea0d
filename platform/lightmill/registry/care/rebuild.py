"""Rebuild: the catalog's registry tables from the object store alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightmill.errors import ConflictError
from lightmill.records.care import RebuildReport
from lightmill.registry import names
from lightmill.registry.care.ledger import Ledger
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
    if not filling and catalog.marks.list():
        raise ConflictError(
            f"The catalog {catalog.url} lists versions already and was left as it is; rebuild an empty one, or add "
            "what is lacking with `lightmill registry repair`."
        )
    registry.heal()
    ledger = Ledger(registry.store, registry.keyring.trusted, registry.store_id)
    listed = ledger.refresh()
    recorded = {mid: catalog.versions.recorded(mid) for mid in ledger.assets()}
    aliases = {tuple(name.split("/")[1:4:2]) for name in listed if name.split("/")[2:3] == ["a"]}
    return RebuildReport(
        assets=sum(bool(found) for found in recorded.values()),
        versions=sum(map(len, recorded.values())),
        aliases=sum(catalog.marks.get(mid, f"a/{alias}") is not None for mid, alias in aliases),
        unreadable=tuple(
            names.record_name(version.mid, version.seq)
            for version in sorted(ledger.alive(), key=lambda v: (v.mid, v.seq))
            if version.seq not in recorded[version.mid]
        ),
    )
