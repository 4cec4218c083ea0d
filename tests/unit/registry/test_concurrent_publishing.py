"""Publishers in threads of two processes, on one store and one catalog: one winner a number, no gap, nothing lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightmill.catalog import Catalog
from lightmill.records.references import Reference
from lightmill.registry import Content, Registry, read_store_id
from lightmill.storage import LocalStore
from lightmill.vault import KeyRing
from tests.unit.catalog.examples import run_together
from tests.unit.registry.world import MODEL, World, card

PROCESSES, THREADS, EACH = 2, 8, 2


def registry_of(folder: Path, catalog: Catalog) -> Registry:
    store = LocalStore(folder / "store", fsync=lambda _: None)
    return Registry(store, KeyRing.open(folder / "keys" / "ring.json"), "default", read_store_id(store), catalog)


def publish_many(wait: Callable[[], None], folder: Path, me: int) -> list[tuple[int, str]]:
    """Publish from several threads; return each version's number and the content that it must hold."""
    with Catalog.open(f"sqlite:///{folder / 'catalog.db'}") as catalog:
        registry = registry_of(folder, catalog)
        ready = threading.Barrier(THREADS)
        wait()

        def one(thread: int) -> list[tuple[int, str]]:
            ready.wait(60)
            found = []
            for turn in range(EACH):
                draft, text = registry.begin(MODEL, "m"), f"{me}-{thread}-{turn}"
                sealed = draft.seal_files({"note.txt": text.encode()})
                summary = registry.commit(draft, Content(files=sealed.files, blobs=sealed.blobs, model=card()))
                found.append((summary.id.seq, text))
            return found

        with ThreadPoolExecutor(THREADS) as pool:
            return [pair for pairs in pool.map(one, range(THREADS)) for pair in pairs]


def test_eight_threads_in_each_of_two_processes_publish_without_a_gap(tmp_path: Path) -> None:
    world = World(tmp_path)
    found = run_together(publish_many, *((tmp_path, me) for me in range(PROCESSES)))
    texts = dict(pair for pairs in found for pair in pairs)
    assert sorted(texts) == list(range(1, PROCESSES * THREADS * EACH + 1))
    reader, parent = world.new_registry(), None
    for seq, text in sorted(texts.items()):
        version = reader.open(reader.resolve(MODEL, Reference(name="m", selector=str(seq))))
        assert version.read_file("note.txt").decode() == text
        assert version.manifest.parent == parent
        parent = version.id.digest
    assert world.names("l/") == []
    assert len(world.names("m/")) == len(texts)
    assert [summary.id.seq for summary in world.catalog.versions.list(MODEL, "m")] == sorted(texts, reverse=True)
