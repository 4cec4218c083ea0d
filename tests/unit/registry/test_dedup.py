"""Versions of one asset share the blobs that did not change, and nothing else does."""

from __future__ import annotations

import hashlib

import pytest
import torch

from lightmill.errors import IntegrityError, RequestError
from lightmill.records.references import AssetKind, Reference, VersionId
from lightmill.registry import Content, Draft, Registry
from lightmill.registry.names import blob_name, envelope_name, manifest_name
from lightmill.registry.parents import newest_version
from lightmill.registry.tensors import load_tensors, plain_tensors, seal_model
from tests.attacks.scene import signed_payload
from tests.counting import CountingStore
from tests.unit.registry.world import MODEL, World, card, open_latest, read

LAYERS = 20


def model() -> dict[str, torch.Tensor]:
    """Twenty layers of one tensor of 1.1 MB each: each is a blob."""
    generator = torch.Generator().manual_seed(0)
    return {f"layers.{n}.weight": torch.rand(280, 1000, generator=generator) for n in range(LAYERS)}


def with_layer(state: dict[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
    return state | {f"layers.{number}.weight": state[f"layers.{number}.weight"] + 1}


def seal_as_child(registry: Registry, state: dict[str, torch.Tensor], name: str = "m") -> tuple[Draft, Content]:
    draft = registry.begin(MODEL, name)
    sealed = seal_model(draft, state, newest_version(registry, MODEL, name))
    content = Content(
        files=(sealed.file,),
        tensors=sealed.tensors.tensors,
        safetensors_header=sealed.header,
        blobs=sealed.tensors.blobs,
        model=card(),
    )
    return draft, content


def publish(registry: Registry, state: dict[str, torch.Tensor], name: str = "m") -> VersionId:
    return registry.commit(*seal_as_child(registry, state, name)).id


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def blobs_of(registry: Registry, id: VersionId) -> set[str]:
    return {blob.id for blob in registry.open(id).manifest.blobs}


def test_a_fine_tune_that_changes_one_layer_stores_one_layer(world: World) -> None:
    store = CountingStore(world.store)
    registry = world.new_registry(store=store)
    first = publish(registry, model())
    assert len([name for name in store.counts.created if name.startswith("b/")]) == LAYERS
    store.forget()
    second = publish(registry, with_layer(model(), 7))
    assert len([name for name in store.counts.created if name.startswith("b/")]) == 1
    shared = blobs_of(registry, first) & blobs_of(registry, second)
    assert len(shared) == LAYERS - 1
    assert same(read(registry, first), model())
    assert same(read(registry, second), with_layer(model(), 7))


def test_what_did_not_change_at_all_stores_no_blob_and_digests_the_same_file(world: World) -> None:
    store = CountingStore(world.store)
    registry = world.new_registry(store=store)
    first = publish(registry, model())
    store.forget()
    second = publish(registry, model())
    assert not [name for name in store.counts.created if name.startswith("b/")]
    assert registry.open(first).manifest.files[0].sha256 == registry.open(second).manifest.files[0].sha256
    assert store.counts.of("b/") == 128 * LAYERS  # the headers, looked up


def test_a_chain_of_versions_keeps_sharing_and_each_loads(world: World) -> None:
    states, state = [], model()
    for number in range(4):
        state = with_layer(state, number)
        states.append(state)
    ids = [publish(world.registry, state) for state in states]
    assert len(world.names("b/")) == LAYERS + 3
    assert all(same(read(world.new_registry(), id), state) for id, state in zip(ids, states, strict=True))


def test_a_tensor_more_or_less_leaves_the_others_shared(world: World) -> None:
    publish(world.registry, model())
    more = model() | {"head.weight": torch.rand(500, 600)}
    publish(world.registry, more)
    assert len(world.names("b/")) == LAYERS + 1
    less = {name: value for name, value in more.items() if name != "layers.3.weight"}
    id = publish(world.registry, less)
    assert len(world.names("b/")) == LAYERS + 1
    assert same(read(world.registry, id), less)


def test_the_second_version_outlives_the_first(world: World) -> None:
    """What a collector does after a tombstone: whatever no living commit record names is removed."""
    first, second = publish(world.registry, model()), publish(world.registry, with_layer(model(), 7))
    mid = world.registry.mid(MODEL, "m")
    records = [signed_payload(world.store.get(name)) for name in world.names(f"r/{mid}/v/")]
    live = {blob["id"] for blob in records[1]["blobs"]}
    dead = [blob_name(blob["id"]) for blob in records[0]["blobs"] if blob["id"] not in live]
    assert len(dead) == 1
    for name in (*dead, manifest_name(records[0]["manifest"]["id"]), envelope_name(mid, 1, 0)):
        world.store.delete(name)
    assert same(read(world.new_registry(), second), with_layer(model(), 7))
    with pytest.raises(IntegrityError):
        read(world.new_registry(), first)


def test_another_asset_shares_nothing(world: World) -> None:
    publish(world.registry, model())
    publish(world.registry, model(), "other")
    assert len(world.names("b/")) == 2 * LAYERS
    fingerprints = [{b.dedup for b in open_latest(world.registry, name).manifest.blobs} for name in ("m", "other")]
    assert not fingerprints[0] & fingerprints[1]


def test_a_parent_of_another_asset_kind_or_workspace_is_refused(world: World) -> None:
    publish(world.registry, model())
    parent = open_latest(world.registry)
    for draft in (world.registry.begin(MODEL, "other"), world.registry.begin(AssetKind.RUN, "m")):
        with pytest.raises(RequestError, match="m@1"):
            draft.seal_tensors(plain_tensors(model()), parent)
    elsewhere = Registry(world.store, world.ring, "elsewhere", world.store_id)
    with pytest.raises(RequestError, match="workspace"):
        elsewhere.begin(MODEL, "m").seal_tensors(plain_tensors(model()), parent)


def test_there_is_no_parent_before_the_first_version(world: World) -> None:
    assert newest_version(world.registry, MODEL, "m") is None


def test_a_parent_that_cannot_be_read_costs_sharing_and_nothing_else(world: World) -> None:
    publish(world.registry, model())
    (name,) = world.names("m/")
    world.path(name).write_bytes(b"x")
    assert newest_version(world.registry, MODEL, "m") is None


@pytest.mark.parametrize("damage", ["gone", "short", "header"])
def test_a_blob_of_the_parent_that_is_not_sound_is_sealed_anew(world: World, damage: str) -> None:
    publish(world.registry, model())
    name = blob_name(open_latest(world.registry).tensor("layers.4.weight").pieces[0].blob)
    data = bytearray(world.store.get(name))
    data[60] ^= 1
    world.store.delete(name)
    if damage != "gone":
        world.store.create(name, data if damage == "header" else data[:-1])
    id = publish(world.registry, model())
    assert same(read(world.registry, id), model())
    assert len(blobs_of(world.registry, id) & blobs_of(world.registry, id.model_copy(update=_first(world)))) == 19


def _first(world: World) -> dict[str, object]:
    id = world.registry.resolve(MODEL, Reference(name="m", selector="1"))
    return {"seq": 1, "digest": id.digest}


def test_blobs_that_were_collected_before_the_commit_are_made_again_to_the_byte(world: World) -> None:
    publish(world.registry, model())
    draft, content = seal_as_child(world.registry, with_layer(model(), 2))
    names = [blob_name(blob.id) for blob in content.blobs]
    reused = [name for name in names if name in {blob_name(i) for i in blobs_of(world.registry, _id(world, 1))}]
    bytes_before = {name: world.store.get(name) for name in reused}
    for name in reused[::3]:
        world.store.delete(name)
    id = world.registry.commit(draft, content).id
    assert {name: world.store.get(name) for name in reused} == bytes_before
    assert all(hashlib.sha256(data).hexdigest() == name[-64:] for name, data in bytes_before.items())
    assert same(read(world.new_registry(), id), with_layer(model(), 2))
    assert world.names("l/") == []


def _id(world: World, seq: int) -> VersionId:
    return world.registry.resolve(MODEL, Reference(name="m", selector=str(seq)))


def test_a_collected_blob_whose_tensor_changed_meanwhile_is_not_made_and_the_lease_stays(world: World) -> None:
    publish(world.registry, model())
    state = model()
    draft, content = seal_as_child(world.registry, state)
    state["layers.5.weight"][0, 0] += 1
    entry = next(entry for entry in content.tensors if entry.name == "layers.5.weight")
    world.store.delete(blob_name(entry.pieces[0].blob))
    with pytest.raises(IntegrityError, match="publish this version again"):
        world.registry.commit(draft, content)
    assert blob_name(entry.pieces[0].blob) not in world.names("b/")
    assert len(world.names("l/")) == 1


def test_small_layers_share_a_blob_until_it_is_worth_one(world: World) -> None:
    state = {f"layers.{n}.weight": torch.full((1000,), float(n)) for n in range(50)}
    publish(world.registry, state)
    assert len(world.names("b/")) == 1
    found = load_tensors(open_latest(world.registry))
    assert same(found, state)


@pytest.mark.parametrize("threads", [1, 3])
def test_progress_of_sealing_counts_every_byte_shared_or_not(world: World, threads: int) -> None:
    publish(world.registry, model())
    draft = world.registry.begin(MODEL, "m")
    seen: list[tuple[int, int]] = []
    tensors = plain_tensors(with_layer(model(), 1))
    sealed = draft.seal_tensors(
        tensors,
        newest_version(world.registry, MODEL, "m"),
        threads=threads,
        progress=lambda done, total: seen.append((done, total)),
    )
    size = sum(tensor.data.nbytes for tensor in tensors)
    assert seen[-1] == (size, size) and len(seen) == LAYERS
    assert sealed.reused == LAYERS - 1
