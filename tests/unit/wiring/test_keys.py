"""The key operations on a whole deployment, in this process; and the commands, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightmill.catalog import Catalog
from lightmill.errors import ConflictError, ErasedError, NotFoundError, RequestError
from lightmill.records.jobs import Progress
from lightmill.records.references import Reference
from lightmill.registry import Registry, RegistryLocation, read_store_id
from lightmill.settings import Settings
from lightmill.storage import open_store
from lightmill.vault import KeyRing
from lightmill.vault.passphrase import PASSPHRASE_FILE
from lightmill.wiring.bootstrap import bootstrap
from lightmill.wiring.operations import OperationContext, run_operation
from tests.fake_transit import TOKEN, FakeTransit
from tests.unit.registry.world import MODEL, open_latest, publish, weights

WORDS = "six random words do very well"


class Site:
    """A bootstrapped home with two models, and the operations on it."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home)
        bootstrap(self.settings)
        self.progress: list[Progress] = []
        with Catalog.open(self.settings.catalog_url) as catalog:
            for name in ("fraud", "churn"):
                for n in (1, 2):
                    publish(self.registry(catalog), name, state=weights(n))

    def registry(self, catalog: Catalog | None = None) -> Registry:
        store = open_store(self.settings.store_url)
        ring = KeyRing.open(self.settings.keyring_path)
        return Registry(store, ring, "default", read_store_id(store), catalog)

    def run(self, operation: str, /, **options: object) -> Any:
        context = OperationContext(settings=self.settings, report=self.progress.append)
        return run_operation(f"keys.{operation}", options, context)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    for name in [name for name in os.environ if name.startswith("LIGHTMILL_")]:
        monkeypatch.delenv(name)
    return Site(tmp_path / "home")


def test_the_life_of_a_key(site: Site) -> None:
    (row,) = site.run("list").keys
    assert (row.scope, row.current, row.versions, row.drafts) == ("the deployment", True, 4, 0)
    rotated = site.run("rotate")
    assert (rotated.rewrapped, rotated.unchanged, rotated.problems) == (4, 0, ())
    assert site.progress[-1].phase == "rewrap" and site.progress[-1].unit == "versions"
    with pytest.raises(ConflictError):
        site.run("destroy", key_id=rotated.keys[0].key_id)
    assert site.run("destroy", key_id=row.key_id).receipt
    isolated = site.run("isolate", kind="model", name="fraud")
    assert isolated.rewrapped == 2
    by_scope = {key.scope: key for key in site.run("list").keys if key.current}
    assert by_scope["model fraud"].versions == by_scope["the deployment"].versions == 2
    plan = site.run("erase", kind="model", name="fraud", dry_run=True)
    assert (plan.what, plan.versions, plan.receipt) == ("model fraud", 2, "")
    open_latest(site.registry(), "fraud")
    erased = site.run("erase", kind="model", name="fraud")
    with pytest.raises(ErasedError, match=erased.receipt):
        open_latest(site.registry(), "fraud")
    open_latest(site.registry(), "churn")
    dead = next(key for key in site.run("list").keys if key.receipt == erased.receipt)
    assert (dead.scope, dead.current, dead.versions) == ("model fraud", False, 2) and dead.erased
    trail = site.run("receipts")
    assert [str(r.action) for r in trail.receipts] == ["rotate", "destroy", "isolate", "erase-begun", "erase"]
    assert trail.receipts[-1].created == erased.created and Path(trail.path).name == "audit.jsonl"


def test_a_protected_ring_works_in_every_door(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=PASSPHRASE_FILE):
        site.run("protect")
    assert site.run("protect", new_passphrase=WORDS, kdf="scrypt").protection == "scrypt"
    with pytest.raises(RequestError, match="protected by a passphrase"):
        site.run("list")
    assert site.run("list", passphrase=WORDS).protection == "scrypt"
    path = tmp_path / "passphrase"
    path.write_text(WORDS)
    path.chmod(0o600)
    monkeypatch.setenv(PASSPHRASE_FILE, str(path))
    assert Settings.read().node_environment()[PASSPHRASE_FILE] == str(path)
    assert WORDS not in json.dumps(Settings.read().node_environment())
    site.run("rotate")
    bootstrap(site.settings)
    location = RegistryLocation(
        store_url=site.settings.store_url, keyring_path=str(site.settings.keyring_path), workspace="default"
    )
    registry = location.open()
    assert WORDS not in location.model_dump_json()
    registry.open(registry.resolve(MODEL, Reference(name="fraud")))
    assert site.run("unprotect").protection == "none"
    with pytest.raises(RequestError, match="argon2id or scrypt"):
        site.run("protect", kdf="md5")
    assert WORDS not in site.settings.keyring_path.read_text()


def test_a_key_service_takes_over_and_gives_back(site: Site, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with FakeTransit() as fake:
        fake.new_key("lm")
        state = site.run(
            "use", provider="vault-transit", url=fake.url, key_id="lm", token_file=str(token), wrap_ring=True
        )
        assert (state.key_id, state.protection) == ("lm", "service")
        assert site.run("rotate", new_keys=False).rewrapped == 4
        open_latest(site.registry(), "fraud")
        isolated = site.run("isolate", kind="model", name="fraud")
        assert isolated.keys[0].provider == state.provider and len(fake.keys) == 2
        site.run("erase", kind="model", name="fraud")
        assert set(fake.keys) == {"lm"}
        site.run("isolate", kind="model", name="churn")
        site.run("use", provider="local")
        moved = site.run("rotate")
        assert {key.provider for key in moved.keys} == {
            f"local-keyring:{KeyRing.open(site.settings.keyring_path).ring_id}"
        }
        old = next(name for name in fake.keys if name != "lm")
        site.run("destroy", key_id=old)
        assert set(fake.keys) == {"lm"}
        assert (moved.rewrapped, moved.erased) == (2, 2)
        with pytest.raises(ConflictError, match="seals the key ring itself"):
            site.run("destroy", key_id="lm")
        site.run("unprotect")
        site.run("destroy", key_id="lm")
        assert fake.keys == {}
    open_latest(site.registry(), "churn")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"provider": "gcp"}, "no key service"),
        ({"provider": "aws-kms", "key_id": "alias/x"}, "region"),
        ({"provider": "vault-transit", "url": "ftp://x", "token_file": "t"}, "url"),
        ({"provider": "vault-transit", "url": "https://token@x", "token_file": "t"}, "url"),
        ({"provider": "vault-transit", "url": "https://x"}, "token_file"),
    ],
)
def test_incomplete_services_are_refused(site: Site, options: dict[str, object], words: str) -> None:
    before = site.settings.keyring_path.read_bytes()
    with pytest.raises(RequestError, match=words):
        site.run("use", **options)
    assert site.settings.keyring_path.read_bytes() == before


def test_rekey_publishes_and_the_catalog_knows(site: Site) -> None:
    done = site.run("rekey", kind="model", reference="fraud@1")
    assert (done.source, done.version) == ("fraud@1", "fraud@3") and done.blobs == 1
    with Catalog.open(site.settings.catalog_url) as catalog:
        assert catalog.versions.get(MODEL, "fraud", 3).id.digest == done.digest
    assert site.run("receipts").receipts[-1].what == "model fraud@1 as fraud@3"


def test_what_is_not_there_is_named(site: Site) -> None:
    with pytest.raises(RequestError, match="one of the two"):
        site.run("isolate")
    with pytest.raises(RequestError, match="one of the two"):
        site.run("isolate", kind="model", name="fraud", workspace="default")
    with pytest.raises(NotFoundError, match="no keys for workspace 'other'"):
        site.run("isolate", workspace="other")
    with pytest.raises(NotFoundError, match="knows no root key"):
        site.run("destroy", key_id="root-0")
    with pytest.raises(RequestError, match="lightmill keys isolate model fraud"):
        site.run("erase", kind="model", name="fraud")
    with pytest.raises(RequestError, match="kind"):
        site.run("isolate", kind="car", name="x")


def test_the_commands_as_a_user_types_them(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_text(WORDS + "\n")
    path.chmod(0o600)
    environment = os.environ | {
        "LIGHTMILL_HOME": str(site.settings.home),
        PASSPHRASE_FILE: str(path),
        "COLUMNS": "200",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }

    def lightmill(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from lightmill.cli import main; main()", "keys", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)

    site.run("protect", new_passphrase=WORDS, kdf="scrypt")
    done = lightmill("isolate", "model", "fraud")
    assert done.returncode == 0 and "still open with the older root key" in done.stderr, done.stderr
    refused = lightmill("erase", "model", "fraud")
    assert refused.returncode == 2 and "--yes" in refused.stderr
    erased = lightmill("erase", "model", "fraud", "--yes", "--json")
    assert erased.returncode == 0, erased.stdout + erased.stderr
    receipt = json.loads(erased.stdout)["receipt"]
    listed = lightmill("list")
    assert receipt in listed.stdout.replace("\n", "") and "model fraud" in listed.stdout, listed.stdout
    assert WORDS not in "".join(each.stdout + each.stderr for each in (done, refused, erased, listed))
