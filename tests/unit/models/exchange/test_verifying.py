"""Verification reads what is there, counts it, and names what is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightmill.errors import IntegrityError
from lightmill.models.exchange.verifying import verify_version
from lightmill.records.assets import VersionSummary
from lightmill.records.jobs import Progress
from lightmill.registry.names import blob_name
from tests.attacks.scene import dataset_card, publish_dataset, table
from tests.unit.registry.world import World, publish


@pytest.fixture
def summary(world: World) -> VersionSummary:
    """Three objects: one of 10 MiB, one of the small tensors, one of 9 MiB."""
    own = torch.arange(9 << 20, dtype=torch.uint8)
    longer = torch.arange(10 << 17, dtype=torch.int64)
    return publish(world.registry, state={"own": own, "longer": longer, "small": torch.arange(5.0)})


def objects(world: World, summary: VersionSummary) -> list[Path]:
    return [world.path(blob_name(blob.id)) for blob in world.registry.open(summary.id).manifest.blobs]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_every_byte_is_read_and_counted(world: World, summary: VersionSummary) -> None:
    seen: list[Progress] = []
    done = verify_version(world.registry, summary.id, report=seen.append)
    blobs = world.registry.open(summary.id).manifest.blobs
    assert (done.objects, done.objects_total, done.segments, done.segments_total) == (3, 3, 20, 20)
    assert (done.files, done.tensors, done.read_bytes) == (1, 3, sum(blob.size for blob in blobs))
    assert (seen[-1].done, seen[-1].total, seen[-1].unit) == (3, 3, "objects")


@pytest.mark.parametrize("at", [0, 60, 100, 130, 5 << 20, -1])
def test_one_flipped_bit_is_found_wherever_it_is(world: World, summary: VersionSummary, at: int) -> None:
    path = objects(world, summary)[0]
    flip(path, at)
    with pytest.raises(IntegrityError) as caught:
        verify_version(world.registry, summary.id)
    assert path.name in caught.value.message and "m@1" in caught.value.message


def test_every_damaged_object_is_named_in_one_run(world: World, summary: VersionSummary) -> None:
    paths = objects(world, summary)
    flip(paths[0], 500)
    paths[1].unlink()
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    for percent in (None, 1.0):
        with pytest.raises(IntegrityError) as caught:
            verify_version(world.registry, summary.id, sample_percent=percent)
        found = [path.name in caught.value.message for path in paths]
        assert found == ([True, True, True] if percent is None else [False, True, True])


def test_a_sample_reads_its_share_and_repeats_by_its_seed(world: World, summary: VersionSummary) -> None:
    done = verify_version(world.registry, summary.id, sample_percent=25, seed=4)
    assert (done.objects, done.segments, done.segments_total) == (3, 5, 20)
    assert done.read_bytes < 6 << 20
    assert done == verify_version(world.registry, summary.id, sample_percent=25, seed=4)
    flip(objects(world, summary)[0], 3 << 20)

    def finds(seed: int) -> bool:
        try:
            verify_version(world.registry, summary.id, sample_percent=25, seed=seed)
        except IntegrityError:
            return True
        return False

    found = [finds(seed) for seed in range(12)]
    assert found == [finds(seed) for seed in range(12)]
    assert 0 < sum(found) < 12
    assert verify_version(world.registry, publish(world.registry).id, sample_percent=100).sample_percent is None


def test_a_dataset_is_verified_by_its_objects(world: World) -> None:
    id = publish_dataset(world.registry, "d", table(), dataset_card())
    done = verify_version(world.registry, id)
    assert (done.objects, done.files) == (1, 1)
    entry = world.registry.open(id).manifest.files[0]
    flip(world.path(blob_name(entry.object or "")), 10)
    with pytest.raises(IntegrityError, match=entry.sha256):
        verify_version(world.registry, id)
