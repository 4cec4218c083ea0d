"""Whoever can write to a node's cache changes a copy: it is refused and fetched again, or nothing is returned."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from lightmill.errors import IntegrityError
from lightmill.records.references import parse_reference
from lightmill.registry import OpenVersion
from lightmill.registry.cache import CachingStore
from lightmill.registry.names import blob_name
from lightmill.storage import LocalStore
from tests.counting import CountingStore
from tests.unit.registry.world import MODEL, World, publish

MIB = 1 << 20
FILLING = 0x5A


@cache
def state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "layers.0.a": torch.randint(0, 255, (3 * MIB,), dtype=torch.uint8, generator=generator),
        "layers.1.b": torch.randint(0, 255, (3 * MIB,), dtype=torch.uint8, generator=generator),
        "layers.2.c": torch.randint(0, 255, (1000,), dtype=torch.uint8, generator=generator),
    }


class Node:
    """A node whose cache holds version 2 of a model; version 1 and its blobs are known to the attacker."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder / "world")
        for seed in (1, 2):
            publish(self.world.registry, state=state(seed))
        self.folder = folder / "cache"
        self.behind = CountingStore(self.world.store)
        self.cache = CachingStore(self.behind, self.folder, 100 * MIB)
        self.version = self.open("m@2")
        assert self.load() is None
        self.behind.forget()

    def open(self, reference: str) -> OpenVersion:
        registry = self.world.new_registry(store=self.cache)
        return registry.open(registry.resolve(MODEL, parse_reference(reference)))

    def copy_of(self, tensor: str) -> Path:
        return self.folder / "blobs" / self.version.tensor(tensor).pieces[0].blob

    def load(self) -> IntegrityError | None:
        """Load into memory that holds something else: all right, or refused and zeroed."""
        outs = {name: bytearray([FILLING]) * value.nbytes for name, value in state(2).items()}
        try:
            self.version.load_into({name: memoryview(out) for name, out in outs.items()})
        except IntegrityError as exc:
            assert not any(any(out) for out in outs.values())
            return exc
        assert all(outs[name] == bytes(value.numpy()) for name, value in state(2).items())
        return None


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def flipped(position: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        at = position % len(data)
        return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]

    return change


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    **{f"flipped at {at}": flipped(at) for at in (0, 8, 10, 11, 12, 25, 60, 100, 128, 1_048_700, 3_000_000, -1)},
    "cut by one byte": lambda data: data[:-1],
    "cut to a header": lambda data: data[:128],
    "emptied": lambda _: b"",
    "longer": lambda data: data + b"\0",
    "zeros": lambda data: bytes(len(data)),
    "segments exchanged": lambda data: data[:128] + data[1048720:2097312] + data[128:1048720] + data[2097312:],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_fetched_again_and_the_load_is_right(node: Node, change: str) -> None:
    path = node.copy_of("layers.0.a")
    good = path.read_bytes()
    path.write_bytes(CHANGES[change](good))
    assert node.load() is None
    assert path.read_bytes() == good
    assert (node.cache.counts.damaged, node.behind.counts.bytes) == (1, len(good))


@pytest.mark.parametrize("change", ["flipped at 60", "flipped at 3000000", "cut by one byte", "zeros"])
def test_a_changed_copy_is_refused_when_the_store_has_lost_the_blob_or_has_the_same(node: Node, change: str) -> None:
    path = node.copy_of("layers.0.a")
    name = blob_name(path.name)
    bad = CHANGES[change](path.read_bytes())
    path.write_bytes(bad)
    node.world.path(name).write_bytes(bad)
    error = node.load()
    assert error and name in error.message
    path.write_bytes(bad)
    node.world.path(name).unlink()
    error = node.load()
    assert error and name in error.message


def test_two_copies_that_were_exchanged_are_fetched_again(node: Node) -> None:
    one, other = node.copy_of("layers.0.a"), node.copy_of("layers.1.b")
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert node.load() is None
    assert (one.read_bytes(), other.read_bytes(), node.cache.counts.damaged) == (first, second, 2)


def test_the_same_tensor_of_another_version_is_fetched_again(node: Node) -> None:
    old = node.open("m@1").tensor("layers.0.a").pieces[0].blob
    good = node.copy_of("layers.0.a").read_bytes()
    node.copy_of("layers.0.a").write_bytes(node.world.store.get(blob_name(old)))
    assert node.load() is None
    assert node.copy_of("layers.0.a").read_bytes() == good


def test_a_changed_manifest_in_the_cache_is_fetched_again(node: Node) -> None:
    manifests = [name[-64:] for name in node.world.names("m/")]
    for digest in manifests:
        path = node.folder / "blobs" / digest
        if path.exists():
            path.write_bytes(flipped(-1)(path.read_bytes()))
    assert node.open("m@2").manifest == node.version.manifest
    assert node.cache.counts.damaged == 1


def test_a_copy_that_is_a_link_elsewhere_gives_nothing_but_what_was_written(node: Node, tmp_path: Path) -> None:
    path = node.copy_of("layers.0.a")
    (tmp_path / "elsewhere").write_bytes(b"x" * path.stat().st_size)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert node.load() is None
    assert not path.is_symlink()
    assert (tmp_path / "elsewhere").read_bytes()[:3] == b"xxx"


def test_the_cache_holds_ciphertext_only(node: Node) -> None:
    needles = [bytes(value.numpy()[:1000]) for value in state(2).values()]
    held = [path.read_bytes() for path in node.folder.rglob("*") if path.is_file()]
    assert len(held) > 3
    assert not any(needle in data for needle in needles for data in held)
    assert isinstance(node.world.store, LocalStore)
