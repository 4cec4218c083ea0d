"""Loading from files and from stores that are asked in parts: the same tensors, bounded reads, no half results."""

from __future__ import annotations

import gc
import os
import tracemalloc
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lightmill.errors import IntegrityError, NotFoundError, RequestError, UnavailableError
from lightmill.registry import OpenVersion
from lightmill.registry.names import blob_name
from lightmill.registry.tensors import load_slice, load_slices, load_tensors
from lightmill.storage import BlobStore
from tests.counting import CountingStore
from tests.unit.registry.world import World, open_latest, publish

MIB = 1 << 20
SLACK = 128 + 16 * 80  # the header and tags of a blob


@cache
def state() -> dict[str, torch.Tensor]:
    """Read only."""
    generator = torch.Generator().manual_seed(11)

    def random(*shape: int) -> torch.Tensor:
        return torch.randint(0, 255, shape, dtype=torch.uint8, generator=generator)

    return {
        "embed": random(20, MIB),  # several requests
        "own": random(9 * MIB + 5),
        "layers.0.a": random(3 * MIB // 2),
        "layers.0.b": random(7),
        "layers.1.a": random(3, MIB),
        "scalar": torch.tensor(2.5),
    }


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Read only."""
    world = World(tmp_path_factory.mktemp("shared"))
    publish(world.registry, state=state())
    return world


@pytest.fixture
def counting(shared: World) -> CountingStore:
    return CountingStore(shared.store)


def opened(world: World, store: BlobStore) -> OpenVersion:
    version = open_latest(world.new_registry(store=store))
    if isinstance(store, CountingStore):
        store.forget()
    return version


def test_requests_bring_the_same_tensors_and_no_byte_twice(shared: World, counting: CountingStore) -> None:
    version = opened(shared, counting)
    found = load_tensors(version)
    assert all(torch.equal(found[name], value) for name, value in state().items())
    assert counting.counts.bytes == sum(blob.size for blob in version.manifest.blobs)
    assert all(length <= 8 * MIB + SLACK for _, _, length in counting.counts.reads)
    spans = sorted(counting.counts.reads)
    assert all(a[0] != b[0] or a[1] + a[2] <= b[1] for a, b in pairwise(spans))
    assert counting.counts.heads == len(version.manifest.blobs)


class CuttingStore(CountingStore):
    """Gives one byte less than it was asked for."""

    def get_view(self, name: str, offset: int, length: int) -> memoryview:
        return super().get_view(name, offset, length)[:-1]

    def read_into(self, name: str, offset: int, out: memoryview) -> None:
        raise AssertionError("tensors are read from views, without a copy")


def test_an_answer_that_is_too_short_is_not_decrypted(shared: World) -> None:
    with pytest.raises(UnavailableError, match="try again"):
        load_tensors(opened(shared, CuttingStore(shared.store)))


@pytest.mark.parametrize("name", list(state()))
def test_one_tensor_costs_its_bytes_and_at_most_two_mebibytes(
    shared: World, counting: CountingStore, name: str
) -> None:
    version = opened(shared, counting)
    found = load_tensors(version, [name])[name]
    assert torch.equal(found, state()[name])
    slack = SLACK * len({piece.blob for piece in version.tensor(name).pieces})
    assert counting.counts.bytes <= found.nbytes + 2 * MIB + slack


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 20), st.integers(0, 20))
def test_a_shard_reads_its_rows_and_little_more(shared: World, one: int, other: int) -> None:
    start, stop = min(one, other), max(one, other)
    counting = CountingStore(shared.store)
    version = opened(shared, counting)
    found = load_slice(version, "embed", start, stop)
    assert torch.equal(found, state()["embed"][start:stop])
    assert counting.counts.bytes <= found.nbytes + 2 * MIB + 2 * SLACK
    assert found.nbytes or not counting.counts.reads


def test_four_shards_together_read_the_model_about_once(shared: World, counting: CountingStore) -> None:
    version = opened(shared, counting)
    names = {"embed": 20, "own": 9 * MIB + 5}
    shards = []
    for rank in range(4):
        rows = {name: (size * rank // 4, size * (rank + 1) // 4) for name, size in names.items()}
        shards.append(load_slices(version, rows))
    for name in names:
        assert torch.equal(torch.cat([shard[name] for shard in shards]), state()[name])
    assert counting.counts.bytes <= 29 * MIB + 4 * 2 * 2 * MIB


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 21), (21, 21)])
def test_rows_that_a_tensor_does_not_have_are_refused(
    shared: World, counting: CountingStore, start: int, stop: int
) -> None:
    version = opened(shared, counting)
    with pytest.raises(RequestError, match=r"'embed'.*20"):
        load_slice(version, "embed", start, stop)
    with pytest.raises(RequestError, match="'scalar'"):
        load_slice(version, "scalar", 0, 0)
    with pytest.raises(NotFoundError, match="'none'"):
        load_slice(version, "none", 0, 1)
    assert not counting.counts.reads


@pytest.mark.parametrize("remote", [False, True], ids=["files", "requests"])
def test_a_load_needs_two_mebibytes_a_thread_from_files_and_a_request_more_from_a_store(
    shared: World, counting: CountingStore, remote: bool
) -> None:
    version = opened(shared, counting if remote else shared.store)
    outs = {name: bytearray(value.nbytes) for name, value in state().items()}
    views = {name: memoryview(out) for name, out in outs.items()}
    if remote:
        shared_bytes = {name: bytes(value.reshape(-1).view(torch.uint8).numpy()) for name, value in state().items()}
    tracemalloc.start()
    try:
        version.load_into(views, threads=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if remote:  # the store behind returns a copy of what is asked for, which is not the loader's memory
        assert peak < 2 * (2 * 8 * MIB + 2 * MIB + MIB)
        assert all(outs[name] == shared_bytes[name] for name in outs)
    else:
        assert peak < 2 * 2 * MIB + MIB // 4


@pytest.mark.parametrize("remote", [False, True], ids=["files", "requests"])
def test_progress_ends_with_the_bytes_of_the_tensors_that_were_asked_for(
    shared: World, counting: CountingStore, remote: bool
) -> None:
    version = opened(shared, counting if remote else shared.store)
    seen: list[tuple[int, int]] = []
    found = load_tensors(version, ["own", "layers.0.b"], progress=lambda done, total: seen.append((done, total)))
    size = sum(value.nbytes for value in found.values())
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_files_are_closed_as_the_load_goes_on(world: World) -> None:
    publish(world.registry, state={f"layers.{n}.w": torch.full((MIB,), n, dtype=torch.uint8) for n in range(24)})
    version = open_latest(world.registry)
    assert len(version.manifest.blobs) == 24
    gc.collect()  # what other tests of this process have dropped must not close in between
    before, most = descriptors(), 0

    def look(done: int, total: int) -> None:
        nonlocal most
        most = max(most, descriptors() - before)

    load_tensors(version, threads=2, progress=look)
    assert most <= 6
    assert descriptors() == before


@pytest.mark.parametrize("remote", [False, True], ids=["files", "requests"])
@pytest.mark.parametrize("where", ["header", "first", "middle", "last", "short", "long", "gone"])
def test_damage_anywhere_zeroes_every_destination_and_names_the_object(
    tmp_path, shared: World, where: str, remote: bool
) -> None:
    copy = shared.copy_of_store(str(tmp_path / "copy"))
    store = CountingStore(copy) if remote else copy
    version = open_latest(shared.new_registry(store=store))
    name = blob_name(version.tensor("own").pieces[0].blob)
    path = copy.path(name)
    data = bytearray(path.read_bytes())
    positions = {"header": 30, "first": 200, "middle": len(data) // 2, "last": len(data) - 1}
    if where in positions:
        data[positions[where]] ^= 4
    path.write_bytes(data[:-1] if where == "short" else data + b"\0" if where == "long" else data)
    if where == "gone":
        path.unlink()
    outs = {name: bytearray(b"\x5a" * value.nbytes) for name, value in state().items()}
    before = descriptors()
    with pytest.raises(IntegrityError) as caught:
        version.load_into({name: memoryview(out) for name, out in outs.items()})
    assert name in caught.value.message
    assert all(out == bytes(len(out)) for out in outs.values())
    assert descriptors() == before


def test_a_store_that_goes_away_in_the_middle_zeroes_every_destination(shared: World, counting: CountingStore) -> None:
    version = opened(shared, counting)
    asked = 0

    def go_away(_: str) -> None:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise UnavailableError("The store went away")

    counting.before_read = go_away
    outs = {name: bytearray(b"\x5a" * value.nbytes) for name, value in state().items()}
    with pytest.raises(UnavailableError):
        version.load_into({name: memoryview(out) for name, out in outs.items()})
    assert not any(any(out) for out in outs.values())
    assert asked < 10


def test_a_callback_that_raises_ends_the_load_and_zeroes(shared: World) -> None:
    version = opened(shared, shared.store)
    out = bytearray(b"\x5a" * (9 * MIB + 5))

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        version.load_into({"own": memoryview(out)}, progress=stop)
    assert not any(out)


def test_a_module_is_filled_through_the_registry_with_one_count_of_progress(world: World) -> None:
    """One parameter is not contiguous and comes through other memory."""
    source = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 7))
    summary = publish(world.registry, state=source.state_dict())
    module = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 7))
    module[0].weight = nn.Parameter(torch.zeros(300, 200).t())
    seen: list[tuple[int, int]] = []
    version = world.registry.load(summary.id, into=module, progress=lambda done, total: seen.append((done, total)))
    assert version.id == summary.id
    assert all(torch.equal(module.state_dict()[name], value) for name, value in source.state_dict().items())
    size = sum(value.nbytes for value in source.state_dict().values())
    assert seen[-1] == (size, size) and seen == sorted(seen)


def test_large_tensors_lie_in_memory_of_their_own_and_can_be_used_like_any(shared: World) -> None:
    found = load_tensors(opened(shared, shared.store), ["own"])["own"]
    found += 1
    assert torch.equal(found, state()["own"] + 1)
    assert torch.equal(found.clone(), found) and found.is_contiguous()
