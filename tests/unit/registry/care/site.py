"""A store with a history: two models, moved aliases, a deleted version; and what can happen to it."""

from __future__ import annotations

import random
from pathlib import Path

from lightmill.catalog import Catalog
from lightmill.records.care import CheckReport
from lightmill.records.references import Reference, VersionId
from lightmill.registry.care import CheckOptions, check
from lightmill.storage import BlobStore, LocalStore
from tests.attacks.stage import bury
from tests.unit.registry.world import MODEL, World, publish, weights


class Site(World):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ids = [publish(self.registry, state=weights(n)).id for n in range(3)]
        self.other = publish(self.registry, "other", state=weights(9)).id
        self.registry.set_alias(MODEL, "m", "champion", 1)
        self.registry.set_alias(MODEL, "m", "champion", 3)
        self.registry.set_alias(MODEL, "other", "candidate", 1)
        self.mid = self.registry.mid(MODEL, "m")

    def delete(self, id: VersionId) -> None:
        """Sign that a version is deleted, as the registry does."""
        bury(self.store, self.ring, self.store_id, id)

    def blobs_of(self, id: VersionId) -> list[str]:
        return [f"b/{blob.id[:2]}/{blob.id}" for blob in self.registry.open(id).manifest.blobs]

    def check(self, store: BlobStore | None = None, *, deep: bool = False, **options: object) -> CheckReport:
        ring = self.ring if deep else None
        return check(store or self.store, self.ring.trusted, CheckOptions(keyring=ring, **options))  # pyright: ignore

    def resolve(self, text: str) -> VersionId:
        name, _, selector = text.partition("@")
        return self.registry.resolve(MODEL, Reference(name=name, selector=selector))


def damage(store: LocalStore, name: str, pick: random.Random) -> str:
    """Flip a bit, cut or delete an object; return what was done."""
    path = store.path(name)
    data = path.read_bytes()
    what = pick.choice(("flip", "cut", "delete", "grow"))
    if what == "flip":
        position = pick.randrange(len(data))
        path.write_bytes(data[:position] + bytes([data[position] ^ (1 << pick.randrange(8))]) + data[position + 1 :])
    elif what == "cut":
        path.write_bytes(data[: pick.randrange(len(data))])
    elif what == "grow":
        path.write_bytes(data + b"\0")
    else:
        path.unlink()
    return what


def rows(catalog: Catalog) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the tables that a store can fill, sorted."""
    from sqlalchemy import select

    from lightmill.catalog.tables import metadata

    found = {}
    with catalog._database.read() as connection:
        for table in metadata.sorted_tables:
            if table.name in ("assets", "versions", "aliases", "marks", "tags", "alias_history"):
                found[table.name] = sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
    return found
