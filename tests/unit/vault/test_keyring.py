from __future__ import annotations

import base64
import copy
import json
import os
import pickle
import stat
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lightmill.errors import ConflictError, IntegrityError, LightmillError, NotFoundError, RequestError
from lightmill.vault import COMMIT_TYPE, KeyRing, Signer, new_key, verify

CONTEXT = {"store": "0" * 32, "workspace": "default", "mid": "a" * 26, "seq": "1"}


def secrets_of(path: Path) -> list[str]:
    value = json.loads(path.read_text())
    texts = [*value["root_keys"].values(), *value["name_keys"].values(), value["signing_seed"]]
    return texts + [base64.b64decode(text).hex() for text in texts]


def test_a_new_ring_is_private_and_opens_again(ring: KeyRing) -> None:
    assert stat.S_IMODE(ring.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(ring.path.parent.stat().st_mode) == 0o700
    assert os.listdir(ring.path.parent) == ["ring.json"]
    again = KeyRing.open(str(ring.path))
    assert again.ring_id == ring.ring_id and len(ring.ring_id) == 16
    assert again.workspaces == ("default",)
    assert again.signer.key_id == ring.signer.key_id
    assert again.trusted == {ring.signer.key_id: ring.signer.public_key}
    assert again.provider.unwrap(ring.provider.wrap(b"k" * 32, CONTEXT), CONTEXT) == b"k" * 32
    again.provider.health()


def test_two_rings_share_nothing(tmp_path: Path) -> None:
    one, two = KeyRing.create(tmp_path / "one"), KeyRing.create(tmp_path / "two")
    assert not set(secrets_of(one.path)) & set(secrets_of(two.path))
    assert one.asset_id("default", "model", "fraud") != two.asset_id("default", "model", "fraud")


def test_a_second_create_changes_nothing(ring: KeyRing) -> None:
    before = ring.path.read_bytes()
    with pytest.raises(ConflictError, match="left as it is"):
        KeyRing.create(ring.path)
    assert ring.path.read_bytes() == before
    assert os.listdir(ring.path.parent) == ["ring.json"]


def test_of_sixteen_creators_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "ring.json"

    def create(_: int) -> KeyRing | None:
        try:
            return KeyRing.create(path)
        except ConflictError:
            return None

    with ThreadPoolExecutor(16) as pool:
        won = [ring for ring in pool.map(create, range(16)) if ring]
    assert len(won) == 1 and KeyRing.open(path).ring_id == won[0].ring_id
    assert os.listdir(tmp_path) == ["ring.json"]


def test_a_missing_ring_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"KeyRing\.create"):
        KeyRing.open(tmp_path / "none.json")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o610])
def test_a_ring_that_others_can_reach_is_not_opened(ring: KeyRing, mode: int) -> None:
    ring.path.chmod(mode)
    with pytest.raises(RequestError, match="chmod 600"):
        KeyRing.open(ring.path)
    ring.path.chmod(0o400)
    KeyRing.open(ring.path)


def test_a_damaged_ring_is_refused_without_quoting_it(ring: KeyRing) -> None:
    good = json.loads(ring.path.read_text())
    hidden = secrets_of(ring.path)
    damaged = [
        b"",
        b"[]",
        ring.path.read_bytes()[:-20],
        *(
            json.dumps(good | change).encode()
            for change in (
                {"format": 2},
                {"ring_id": "x"},
                {"current_root_key": "root-unknown"},
                {"root_keys": {}},
                {"root_keys": good["root_keys"] | {"short": "AAAA"}},
                {"name_keys": {"default": hidden[0] + "x"}},
                {"signing_seed": hidden[0][:-4]},
                {"signing_seed": 7},
                {"trusted": {"a": "b"}},
                {"surplus": hidden[0]},
            )
        ),
    ]
    for data in damaged:
        ring.path.write_bytes(data)
        with pytest.raises(IntegrityError, match="restore it from its backup") as refused:
            KeyRing.open(ring.path)
        text = "".join(traceback.format_exception(refused.value))
        assert not [secret for secret in hidden if secret in text]


def test_nothing_that_prints_shows_a_secret(ring: KeyRing) -> None:
    ring.add_workspace("second")
    hidden = secrets_of(ring.path)
    shown = [repr(o) + str(o) for o in (ring, ring.provider, ring.signer)]
    with pytest.raises(LightmillError) as failed:
        ring.workspace_name_key("unknown")
    shown.append("".join(traceback.format_exception(failed.value)))
    assert not [secret for secret in hidden for text in shown if secret in text]


def test_nothing_that_holds_a_secret_leaves_the_process(ring: KeyRing) -> None:
    for holder in (ring, ring.provider, ring.signer):
        for leave in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=r"KeyRing\.open\(path\)"):
                leave(holder)


def test_the_wrong_ring_says_which_key_is_wanted(ring: KeyRing, tmp_path: Path) -> None:
    other = KeyRing.create(tmp_path / "other.json")
    wrapped = ring.provider.wrap(new_key(), CONTEXT)
    with pytest.raises(IntegrityError) as refused:
        other.provider.unwrap(wrapped, CONTEXT)
    for part in (wrapped.key_id, ring.ring_id, str(other.path), "point to the key ring that wrote it"):
        assert part in str(refused.value)


def test_a_ring_with_a_falsified_root_key_says_so(ring: KeyRing) -> None:
    wrapped = ring.provider.wrap(new_key(), CONTEXT)
    value = json.loads(ring.path.read_text())
    value["root_keys"][wrapped.key_id] = base64.b64encode(bytes(32)).decode()
    ring.path.write_text(json.dumps(value))
    with pytest.raises(IntegrityError, match="does not unwrap"):
        KeyRing.open(ring.path).provider.unwrap(wrapped, CONTEXT)


def test_names_become_ids_per_workspace_and_kind(ring: KeyRing) -> None:
    ring.add_workspace("second")
    ids = {
        ring.asset_id(workspace, kind, name)
        for workspace in ("default", "second")
        for kind in ("model", "dataset")
        for name in ("fraud", "churn")
    }
    assert len(ids) == 8 and all(len(i) == 26 and i.isalnum() and i.islower() for i in ids)
    assert ring.asset_id("default", "model", "fraud") == KeyRing.open(ring.path).asset_id("default", "model", "fraud")
    assert ring.dedup_key("default", "a" * 26) != ring.dedup_key("default", "b" * 26)
    with pytest.raises(NotFoundError, match="add_workspace"):
        ring.asset_id("unknown", "model", "fraud")
    with pytest.raises(RequestError, match="NUL"):
        ring.asset_id("default", "mod\0el", "fraud")


def test_a_workspace_keeps_its_key(ring: KeyRing) -> None:
    before = ring.workspace_name_key("default")
    ring.add_workspace("default")
    assert ring.workspace_name_key("default") == before
    with pytest.raises(RequestError):
        ring.add_workspace("")


def test_concurrent_changes_are_all_kept(ring: KeyRing) -> None:
    rings = [KeyRing.open(ring.path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: rings[i % 4].add_workspace(f"w{i}"), range(16)))
    again = KeyRing.open(ring.path)
    assert set(again.workspaces) == {"default", *(f"w{i}" for i in range(16))}
    assert stat.S_IMODE(ring.path.stat().st_mode) == 0o600
    assert os.listdir(ring.path.parent) == ["ring.json"]


def test_a_new_root_key_wraps_and_the_old_one_still_unwraps(ring: KeyRing) -> None:
    old = ring.provider.wrap(b"k" * 32, CONTEXT)
    key_id = ring.add_root_key()
    again = KeyRing.open(ring.path)
    assert again.provider.key_id == key_id != old.key_id
    assert set(again.root_key_ids) == {key_id, old.key_id}
    assert again.provider.unwrap(old, CONTEXT) == b"k" * 32
    new = again.provider.rewrap(old, CONTEXT)
    assert new.key_id == key_id and again.provider.unwrap(new, CONTEXT) == b"k" * 32


def test_publishers_are_trusted_and_distrusted(ring: KeyRing) -> None:
    colleague = Signer(bytes(32))
    file = colleague.sign(b"{}", COMMIT_TYPE)
    with pytest.raises(IntegrityError, match="not a trusted publisher"):
        verify(file, COMMIT_TYPE, ring.trusted, name="r/x")
    assert ring.trust(colleague.public_key) == colleague.key_id
    assert verify(file, COMMIT_TYPE, KeyRing.open(ring.path).trusted, name="r/x") == (b"{}", colleague.key_id)
    ring.distrust(colleague.key_id)
    assert colleague.key_id not in KeyRing.open(ring.path).trusted
    with pytest.raises(NotFoundError):
        ring.distrust(colleague.key_id)
    with pytest.raises(RequestError):
        ring.trust(b"short")
