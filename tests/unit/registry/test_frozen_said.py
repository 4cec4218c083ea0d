"""Annotations and tombstones that an early Lightmill wrote, read by this one and by a second implementation."""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lightmill.errors import NotFoundError
from lightmill.records.annotations import Notes
from lightmill.records.references import AssetKind, parse_reference
from lightmill.registry import Registry, RegistryLocation
from tests.unit.vault import reference

VECTORS = Path(__file__).parents[2] / "vectors"
EXPECTED = json.loads((VECTORS / "said.json").read_text())
STORE = json.loads((VECTORS / "store.json").read_text())
MID = STORE["mids"]["model"]
MODEL = AssetKind.MODEL


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("said")
    for name in ("store.tar.gz", "said.tar.gz"):
        with tarfile.open(VECTORS / name) as archive:
            archive.extractall(folder, filter="data")
    (folder / "ring.json").chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def registry(root: Path) -> Registry:
    return RegistryLocation(
        store_url=str(root / "store"), keyring_path=str(root / "ring.json"), workspace="default"
    ).open()


def test_what_is_said_is_the_recorded(registry: Registry) -> None:
    for seq, notes in EXPECTED["notes"].items():
        id = registry.resolve(MODEL, parse_reference(f"letters@{seq}"))
        assert registry.notes(id) == Notes.model_validate(notes)


def test_the_deleted_version_is_deleted(registry: Registry) -> None:
    assert registry.deleted(MODEL, "letters") == {int(seq) for seq in EXPECTED["deleted"]}
    with pytest.raises(NotFoundError, match="deleted"):
        registry.resolve(MODEL, parse_reference("letters@3"))


def payload_of(root: Path, name: str) -> tuple[dict[str, Any], str, str]:
    """Check the signature by hand; return payload, type and the SHA-256 of the file."""
    data = (root / "store" / name).read_bytes()
    ring = json.loads((root / "ring.json").read_bytes())
    (public_key,) = (base64.b64decode(key) for key in ring["trusted"].values())
    digest = hashlib.sha256(data).hexdigest()
    return json.loads(reference.check_signature(data, public_key)), json.loads(data)["payloadType"], digest


def version_key(root: Path, seq: int) -> bytes:
    ring = json.loads((root / "ring.json").read_bytes())
    envelope = json.loads((root / f"store/r/{MID}/e/{seq:010d}/000000").read_bytes())
    root_key = base64.b64decode(ring["root_keys"][envelope["key_id"]])
    return reference.unwrap(root_key, base64.b64decode(envelope["wrapped"]), envelope["context"])


def test_a_second_implementation_reads_the_log(root: Path) -> None:
    names = [name for name in EXPECTED["objects"] if "/k/" in name]
    before, stages, texts = None, [], []
    for n, name in enumerate(names, start=1):
        entry, kind, digest = payload_of(root, name)
        assert kind == "application/vnd.lightmill.annotation+json"
        assert (entry["mid"], entry["n"], entry["parent"], entry["store"]) == (MID, n, before, STORE["store"])
        assert entry["record"] == STORE["digests"][entry["seq"] - 1]
        blob_kind = f"annotation{MID}{entry['seq']:010d}{n:010d}".encode()
        key = version_key(root, entry["seq"])
        said = json.loads(
            reference.unseal(base64.b64decode(entry["sealed"]), key, blob_kind, STORE["store"], "default")
        )
        stages += [said["stage"]] if said["kind"] == "stage" else []
        texts += [said["description"]] if said["kind"] == "text" else []
        before = digest
    assert len(names) == 5
    assert stages == [EXPECTED["notes"]["2"]["stage"]]
    assert texts == [EXPECTED["notes"]["2"]["text"]["description"]]


def test_a_second_implementation_reads_the_tombstone(root: Path) -> None:
    (name,) = (name for name in EXPECTED["objects"] if "/t/" in name)
    tombstone, kind, _ = payload_of(root, name)
    assert kind == "application/vnd.lightmill.tombstone+json"
    assert (tombstone["mid"], tombstone["seq"], tombstone["record"]) == (MID, 3, STORE["digests"][2])
    assert {str(tombstone["seq"]): tombstone["reason"]} == EXPECTED["deleted"]
