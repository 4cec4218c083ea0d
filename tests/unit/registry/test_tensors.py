"""Tensors through the registry: every dtype, every size, straight into memory."""

from __future__ import annotations

import hashlib
import struct

import pytest
import safetensors.torch
import torch
from torch import nn

from lightmill.errors import IntegrityError, NotFoundError, RequestError
from lightmill.records.references import VersionId
from lightmill.registry.content import Target, load_targets
from lightmill.registry.names import blob_name
from lightmill.registry.tensors import (
    SAFETENSORS_FILE,
    load_into_module,
    load_tensors,
    plain_tensors,
    safetensors_header,
)
from tests.unit.registry.world import World, open_latest, publish, weights

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    return not left.numel() or torch.equal(
        left.contiguous().reshape(-1).view(torch.uint8), right.contiguous().reshape(-1).view(torch.uint8)
    )


def every_dtype() -> dict[str, torch.Tensor]:
    state = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        values = torch.arange(-6, 18).reshape(2, 3, 4) % 2 if dtype == torch.bool else torch.arange(24).reshape(2, 3, 4)
        state[name] = values.to(dtype)
        state[f"{name}.scalar"] = torch.tensor(1).to(dtype)
        state[f"{name}.empty"] = torch.empty((0, 3)).to(dtype)
    state["special"] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    return state


def test_every_dtype_comes_back_bit_by_bit(world: World) -> None:
    state = every_dtype()
    publish(world.registry, state=state)
    found = load_tensors(open_latest(world.new_registry()))
    assert found.keys() == state.keys()
    assert [name for name in state if not same_bits(state[name], found[name])] == []


def test_strides_do_not_matter(world: World) -> None:
    state = {"t": torch.arange(12.0).reshape(3, 4).t(), "slice": torch.arange(20.0)[::3]}
    publish(world.registry, state=state)
    found = load_tensors(open_latest(world.registry))
    assert torch.equal(found["t"], state["t"])
    assert torch.equal(found["slice"], state["slice"])


def test_a_state_without_a_single_byte_is_kept(world: World) -> None:
    state = {"nothing": torch.empty((0,)), "neither": torch.empty((3, 0), dtype=torch.int64)}
    publish(world.registry, state=state)
    found = load_tensors(open_latest(world.registry))
    assert {name: tuple(t.shape) for name, t in found.items()} == {"nothing": (0,), "neither": (3, 0)}


def test_tensors_of_several_mebibytes_and_one_larger_than_a_blob(world: World) -> None:
    """One of 9 MiB (a blob of its own), one of 66 MiB (two pieces), small ones around them."""
    generator = torch.Generator().manual_seed(3)
    state = {
        "small": torch.arange(5.0),
        "own": torch.randint(0, 255, (9 << 20,), dtype=torch.uint8, generator=generator),
        "long": torch.randint(0, 1 << 60, ((66 << 20) // 8,), dtype=torch.int64, generator=generator),
        "tail": torch.arange(3, dtype=torch.int16),
    }
    summary = publish(world.registry, state=state)
    version = open_latest(world.registry)
    assert len(version.tensor("long").pieces) == 2
    assert len(version.tensor("own").pieces) == 1
    assert version.tensor("own").pieces[0].blob not in {
        p.blob for n in ("small", "tail") for p in version.tensor(n).pieces
    }
    assert summary.size_bytes > 75 << 20
    seen: list[tuple[int, int]] = []
    found = load_tensors(version, threads=3, progress=lambda done, total: seen.append((done, total)))
    assert all(same_bits(state[name], found[name]) for name in state)
    size = sum(value.nbytes for value in state.values())
    assert seen[-1] == (size, size) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_only_the_tensors_that_are_named_are_read(world: World) -> None:
    publish(world.registry)
    version = open_latest(world.registry)
    assert load_tensors(version, ["bias"]).keys() == {"bias"}
    with pytest.raises(NotFoundError, match="no tensor 'none'"):
        load_tensors(version, ["none"])


def test_a_dtype_that_cannot_be_kept_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match=r"'z'.*complex64"):
        plain_tensors({"z": torch.zeros(2, dtype=torch.complex64)})


def test_the_header_is_one_that_safetensors_reads() -> None:
    state = every_dtype()
    tensors = plain_tensors(state)
    header = safetensors_header(tensors)
    assert len(header) % 8 == 0
    data = struct.pack("<Q", len(header)) + header + b"".join(bytes(t.data) for t in tensors)
    found = safetensors.torch.load(data)
    assert all(same_bits(state[name], found[name]) for name in state)


def test_the_safetensors_file_of_a_version_is_read_whole(world: World) -> None:
    publish(world.registry, state=weights(3))
    version = open_latest(world.registry)
    data = version.read_file(SAFETENSORS_FILE)
    entry = version.manifest.files[0]
    assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.size, entry.sha256)
    assert torch.equal(safetensors.torch.load(data)["weight"], weights(3)["weight"])


# -- modules ---------------------------------------------------------------------


def test_a_module_is_filled_in_place(world: World) -> None:
    publish(world.registry, state=weights(1))
    module = nn.Linear(4, 3)
    before = module.weight.data_ptr()
    load_into_module(open_latest(world.registry), module)
    assert module.weight.data_ptr() == before
    assert torch.equal(module.weight, weights(1)["weight"])
    assert torch.equal(module.bias, weights(1)["bias"])


def test_a_module_with_buffers_of_other_dtypes_is_filled(world: World) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    module(torch.rand(5, 2))
    publish(world.registry, state=dict(module.state_dict()))
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    load_into_module(open_latest(world.registry), other)
    for name, value in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert int(other.state_dict()["1.num_batches_tracked"]) == 1


def test_parameters_that_are_not_contiguous_are_filled(world: World) -> None:
    publish(world.registry, state=weights(4))
    module = nn.Linear(4, 3)
    module.weight = nn.Parameter(torch.zeros(4, 3).t())
    assert not module.weight.is_contiguous()
    load_into_module(open_latest(world.registry), module)
    assert torch.equal(module.weight, weights(4)["weight"])


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (nn.Linear(4, 3, bias=False), "bias"),
        (nn.Sequential(nn.Linear(4, 3)), "0.bias"),
        (nn.Linear(5, 3), "weight"),
        (nn.Linear(3, 4), "weight"),
        (nn.Linear(4, 3).double(), "weight"),
    ],
    ids=["a name less", "other names", "wider", "transposed", "other dtype"],
)
def test_a_module_of_another_architecture_is_refused_and_left_alone(
    world: World, module: nn.Module, named: str
) -> None:
    publish(world.registry)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(IntegrityError) as caught:
        load_into_module(open_latest(world.registry), module)
    assert named in caught.value.message and "m@1" in caught.value.message
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_damage_zeroes_the_whole_module(world: World) -> None:
    """Nine mebibytes of weight and a small bias: two blobs, of which one is damaged."""
    state = {"weight": torch.ones(3, 9 << 20, dtype=torch.uint8), "bias": torch.ones(3)}
    publish(world.registry, state=state)
    version = open_latest(world.registry)
    path = world.path(blob_name(version.tensor("weight").pieces[0].blob))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    module = nn.Module()
    module.register_buffer("weight", torch.full((3, 9 << 20), 7, dtype=torch.uint8))
    module.register_buffer("bias", torch.full((3,), 7.0))
    with pytest.raises(IntegrityError):
        load_into_module(version, module)
    assert not any(value.any() for value in module.state_dict().values())


def test_damage_zeroes_parameters_that_are_not_contiguous_and_their_neighbours(world: World) -> None:
    state = {"weight": torch.ones(3, 9 << 20, dtype=torch.uint8), "bias": torch.ones(3)}
    publish(world.registry, state=state)
    version = open_latest(world.registry)
    path = world.path(blob_name(version.tensor("weight").pieces[0].blob))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    module = nn.Module()
    module.register_buffer("weight", torch.full((9 << 20, 3), 7, dtype=torch.uint8).t())
    module.register_buffer("bias", torch.full((3,), 7.0))
    with pytest.raises(IntegrityError):
        load_into_module(version, module)
    assert not any(value.any() for value in module.state_dict().values())


def test_a_destination_of_another_size_is_refused(world: World) -> None:
    publish(world.registry)
    version = open_latest(world.registry)
    for size in (47, 49, 0):
        with pytest.raises(IntegrityError, match="48 bytes"):
            version.load_into({"weight": memoryview(bytearray(size))})


def test_a_manifest_that_points_outside_its_blob_is_refused_and_zeroes(world: World) -> None:
    publish(world.registry)
    version = open_latest(world.registry)
    blobs = {blob.id: blob for blob in version.manifest.blobs}
    blob = next(iter(blobs.values()))
    good, bad = bytearray(b"x" * 8), bytearray(b"x" * 8)
    targets = [
        Target(blob=blob.id, offset=0, out=memoryview(good)),
        Target(blob=blob.id, offset=blob.length - 4, out=memoryview(bad)),
    ]
    with pytest.raises(IntegrityError, match=blob_name(blob.id)):
        load_targets(world.store, version._context, blobs, targets)
    assert (good, bad) == (bytearray(8), bytearray(8))


def test_opening_takes_the_digest_that_was_pinned(world: World) -> None:
    id = publish(world.registry).id
    other = VersionId(kind=id.kind, name=id.name, seq=id.seq, digest="0" * 64)
    with pytest.raises(IntegrityError, match="m@1"):
        world.registry.open(other)
