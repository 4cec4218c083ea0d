"""The registry on a real S3 server, and on stores that fail: what one process publishes, another one loads."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lightmill.errors import IntegrityError, UnavailableError
from lightmill.records.annotations import TagsChanged
from lightmill.records.references import AssetKind, Reference, parse_reference
from lightmill.registry import Content, Registry, initialize_store
from lightmill.registry.names import STORE_FILE
from lightmill.registry.opening import read_store_id
from lightmill.settings import Settings
from lightmill.storage import BlobStore, MemoryStore, RetryingStore, open_store
from lightmill.vault import KeyRing
from lightmill.wiring.bootstrap import bootstrap
from lightmill.wiring.platform import open_platform
from tests.counting import CountingStore
from tests.faulty import FaultyStore, scripted, seeded
from tests.faulty_proxy import faulty_proxy
from tests.seaweed import SECRET_KEY, SeaweedServer
from tests.unit.registry.world import MODEL, World, open_latest, publish, read, weights

LOADER = """
import json, sys
from lightmill.records.references import AssetKind, parse_reference
from lightmill.registry.opening import RegistryLocation
from lightmill.registry.tensors import load_tensors
url, ring = sys.argv[1:]
registry = RegistryLocation(store_url=url, keyring_path=ring, workspace="default").open()
version = registry.open(registry.resolve(AssetKind.MODEL, parse_reference("m@latest")))
print(json.dumps({"seq": version.id.seq, **{name: tensor.tolist() for name, tensor in load_tensors(version).items()}}))
"""


def settings_on(url: str, folder: Path) -> Settings:
    return Settings(home=folder / "home", store=url, catalog="", workspace="default")


def load_elsewhere(url: str, keyring: Path, folder: Path) -> dict[str, object]:
    """Load the newest version in another process that has the key ring and the URI, and no catalog."""
    folder.mkdir()
    ring = shutil.copy(keyring, folder / "ring.json")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", LOADER, url, str(ring)],
        capture_output=True, text=True, env=environment, cwd=folder, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_what_one_process_publishes_to_s3_another_loads_with_key_ring_and_uri(
    seaweed: SeaweedServer, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path / "home", store=seaweed.url(), catalog="", workspace="default")
    bootstrap(settings)
    store = open_store(settings.store_url)
    assert list(store.list("")) == [STORE_FILE]
    store_id = read_store_id(store)
    bootstrap(settings)  # safe to repeat
    assert initialize_store(store) == store_id

    registry = open_platform(settings).registry
    publish(registry)
    publish(registry, state=weights(5))
    found = load_elsewhere(settings.store_url, settings.keyring_path, tmp_path / "elsewhere")
    assert found == {"seq": 2, **{name: tensor.tolist() for name, tensor in weights(5).items()}}
    print(f"published by one process, loaded by another: {settings.store_url}")

    files = [path for path in settings.home.rglob("*") if path.is_file()]
    assert files and not [path for path in files if SECRET_KEY.encode() in path.read_bytes()]
    assert not (settings.home / "store").exists() and SECRET_KEY not in str(settings.node_environment())

    settings.keyring_path.unlink()
    with pytest.raises(IntegrityError, match="Put the key ring back"):
        bootstrap(settings)


def new_registry(store: BlobStore, folder: Path) -> Registry:
    return Registry(store, KeyRing.create(folder / "ring.json"), "default", secrets.token_hex(16))


def publish_files(registry: Registry, names: list[str]) -> dict[str, bytes]:
    """Publish runs, four publishers at a time; return what each holds."""

    def one(name: str) -> tuple[str, bytes]:
        data = os.urandom(20_000)
        draft = registry.begin(AssetKind.RUN, "r")
        sealed = draft.seal_files({name: data})
        registry.commit(draft, Content(files=sealed.files, blobs=sealed.blobs))
        return name, data

    with ThreadPoolExecutor(4) as pool:
        return dict(pool.map(one, names))


def check_whole(registry: Registry, expected: dict[str, bytes]) -> None:
    """Every version is there, under numbers without gaps, with its bytes."""
    assert registry.latest(AssetKind.RUN, "r") == len(expected)
    found = {}
    for seq in range(1, len(expected) + 1):
        version = registry.open(registry.resolve(AssetKind.RUN, Reference(name="r", selector=str(seq))))
        found |= {file.path: version.read_file(file.path) for file in version.manifest.files}
    assert found == expected


@pytest.mark.parametrize("seed", range(4))
def test_four_publishers_over_a_faulty_store_lose_nothing(seed: int, tmp_path: Path) -> None:
    faulty = FaultyStore(MemoryStore(), seeded(seed, rate=0.4))
    registry = new_registry(RetryingStore(faulty, sleep=lambda _: None), tmp_path)
    expected = publish_files(registry, [f"f{i}" for i in range(16)])
    check_whole(registry, expected)
    print(f"seed {seed}: 16 versions by 4 publishers over {dict(faulty.faults)}")
    assert sum(faulty.faults.values()) > 100


def test_publishers_over_a_bad_network_lose_nothing(seaweed: SeaweedServer, tmp_path: Path) -> None:
    chance = random.Random(8)
    kinds = ["500", "503", "reset", "lost", "lost_500"]
    with faulty_proxy(seaweed.port) as proxy:
        store = open_store(seaweed.url(endpoint=proxy.endpoint))
        registry = new_registry(store, tmp_path)
        proxy.plan = lambda method, target: chance.choice(kinds) if chance.random() < 0.15 else ""
        expected = publish_files(registry, [f"f{i}" for i in range(6)])
        proxy.plan = lambda method, target: ""
        check_whole(registry, expected)
        print(f"6 versions by 4 publishers on S3 over {dict(proxy.faults)}; {store.requests}")  # type: ignore[attr-defined]
        assert sum(proxy.faults.values()) >= 10


def test_a_publisher_that_sees_stale_lists_takes_nobody_s_number(tmp_path: Path) -> None:
    memory = MemoryStore()
    publish_with = new_registry(memory, tmp_path)
    faulty = FaultyStore(memory, scripted(["stale"] * 3, "list"), newest=40)
    stale = Registry(faulty, publish_with.keyring, "default", publish_with.store_id)
    publish(stale)
    faulty._plan = scripted(["stale"] * 3, "list")
    publish(stale, state=weights(1))
    publish(publish_with, state=weights(2))
    assert faulty.faults["stale"] >= 4
    assert publish_with.latest(MODEL, "m") == 3
    assert torch.equal(read(publish_with, open_latest(publish_with).id)["weight"], weights(2)["weight"])


def test_a_listing_that_lags_behind_is_no_rollback(tmp_path: Path) -> None:
    """The catalog has seen more than the listing shows, and the objects are there."""
    world = World(tmp_path)
    for n in range(3):
        publish(world.registry, state=weights(n))
    world.registry.set_alias(MODEL, "m", "champion", 2)
    world.registry.set_alias(MODEL, "m", "champion", 1)
    world.registry.annotate(world.registry.resolve(MODEL, parse_reference("m@1")), TagsChanged(set={"a": "b"}))
    world.registry.delete(MODEL, "m", 2, "bad")

    class Lagging(CountingStore):
        """Lists nothing that was made after the first version."""

        def list(self, prefix: str) -> Iterator[str]:
            late = ("0000000003", "champion/0000000002", "/k/", "/t/")
            return (name for name in super().list(prefix) if not any(part in name for part in late))

    registry = world.new_registry(store=Lagging(world.store), catalog=world.catalog)
    assert registry.latest(MODEL, "m") == 3
    assert registry.resolve(MODEL, parse_reference("m@champion")).seq == 1
    assert registry.deleted(MODEL, "m") == {2}
    assert registry.notes(registry.resolve(MODEL, parse_reference("m@1"))).tags == {"a": "b"}
    assert publish(registry, state=weights(9)).id.seq == 4


@pytest.mark.parametrize("operation", ["get", "get_range"])
def test_short_data_never_passes_for_a_version(operation: str, tmp_path: Path) -> None:
    memory = MemoryStore()
    right = new_registry(memory, tmp_path)
    id = publish(right, state=weights(3)).id
    refused = survived = 0
    for nth in range(12):
        plan = scripted([""] * nth + ["short"], operation)  # type: ignore[list-item]
        faulty = FaultyStore(memory, plan)
        registry = Registry(RetryingStore(faulty, sleep=lambda _: None), right.keyring, "default", right.store_id)
        try:
            found = read(registry, id)
        except (IntegrityError, UnavailableError):
            refused += 1
        else:
            assert torch.equal(found["weight"], weights(3)["weight"])
            survived += bool(faulty.faults)  # an envelope that does not open is looked up once more
    assert refused + survived >= 1
