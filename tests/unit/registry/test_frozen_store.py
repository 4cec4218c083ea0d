"""A store that an early Lightmill wrote is read by this one, and by every later one."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import torch
from blake3 import blake3

from lightmill.datasets.parquet import read_encrypted
from lightmill.errors import IntegrityError
from lightmill.records.references import AssetKind, parse_reference
from lightmill.registry import Registry, RegistryLocation
from lightmill.registry.tensors import load_tensors

VECTORS = Path(__file__).parents[2] / "vectors"
EXPECTED = json.loads((VECTORS / "store.json").read_text())


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> RegistryLocation:
    folder = tmp_path_factory.mktemp("frozen")
    with tarfile.open(VECTORS / "store.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    (folder / "ring.json").chmod(0o600)
    return RegistryLocation(
        store_url=str(folder / "store"), keyring_path=str(folder / "ring.json"), workspace="default"
    )


@pytest.fixture(scope="module")
def registry(location: RegistryLocation) -> Registry:
    return location.open()


def test_the_store_and_its_names_are_the_recorded_ones(registry: Registry) -> None:
    assert registry.store_id == EXPECTED["store"]
    assert {str(k): registry.mid(k, "letters") for k in (AssetKind.DATASET, AssetKind.MODEL)} == EXPECTED["mids"]
    assert list(registry.store.list("")) == EXPECTED["objects"]


def test_versions_and_aliases_are_the_recorded_ones(registry: Registry) -> None:
    ids = [registry.resolve(AssetKind.MODEL, parse_reference(f"letters@{seq}")) for seq in (1, 2, 3)]
    assert [id.digest for id in ids] == EXPECTED["digests"]
    assert registry.aliases(AssetKind.MODEL, "letters") == {"champion": 2}
    assert registry.resolve(AssetKind.MODEL, parse_reference("letters@champion")) == ids[1]
    assert registry.resolve(AssetKind.MODEL, parse_reference("letters@latest")) == ids[2]


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_the_tensors_of_every_model_version_are_read(registry: Registry, seq: int) -> None:
    """Version 3 is wrapped under a later root key than 1 and 2."""
    version = registry.open(registry.resolve(AssetKind.MODEL, parse_reference(f"letters@{seq}")))
    found = load_tensors(version)
    assert torch.equal(found["weight"], torch.tensor([[1.5, -2.0], [0.25, 1e-30]]) * seq)
    assert torch.equal(found["bias"], torch.tensor([1.0, -1.0], dtype=torch.bfloat16))
    assert torch.equal(found["steps"], torch.tensor(123_456_789_012))
    assert torch.equal(found["mask"], torch.tensor([True, False, True]))
    assert found["empty"].shape == (0, 3)
    card = version.manifest.model
    assert card is not None
    assert (card.classes, card.metrics) == (("alpha", "beta"), {"test_accuracy": 0.75})
    assert card.preprocessing.steps[0].mean == (1.0, 2.0)
    assert version.manifest.provenance.spec == {"epochs": 3}


def test_the_rows_of_the_dataset_are_read(registry: Registry) -> None:
    version = registry.open(registry.resolve(AssetKind.DATASET, parse_reference("letters@1")))
    entry = next(file for file in version.manifest.files if file.object)
    rows = read_encrypted(version.read_object(entry), version.subkey, entry.path).to_pydict()
    assert rows == {
        "row_id": [0, 2, 5],
        "label": [0, 1, 1],
        "ink": [1.5, -2.0, 1e30],
        "paper": [0.25, 0.0, -1e-30],
    }
    assert version.read_file("notes.txt") == b"two rows were dropped\n"
    assert version.manifest.dataset is not None
    assert version.manifest.dataset.profile.dropped == {"missing value": 2}


@pytest.mark.parametrize("digest", ["blake3", "sha256"])
def test_an_object_is_checked_by_the_digest_that_its_entry_has(registry: Registry, digest: str) -> None:
    version = registry.open(registry.resolve(AssetKind.DATASET, parse_reference("letters@1")))
    entry = next(file for file in version.manifest.files if file.object)
    data = version.read_object(entry)
    assert entry.blake3 is None  # of a version from before there was one
    right = {"blake3": blake3(data).hexdigest(), "sha256": entry.sha256}
    # With a BLAKE3 the other digest is not computed again; without one it is what counts.
    known = entry.model_copy(update={"sha256": "0" * 64, digest: right[digest]})
    assert version.read_object(known) == data
    for wrong in (known.model_copy(update={digest: "0" * 64}), known.model_copy(update={"size": entry.size + 1})):
        with pytest.raises(IntegrityError, match="not what was written"):
            version.read_object(wrong)
