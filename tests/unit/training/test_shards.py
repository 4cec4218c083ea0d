"""Parts of tensors: each is written once, and any division reads what any other wrote."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import IntegrityError
from lightmill.records.assets import RunCard
from lightmill.records.references import AssetKind
from lightmill.registry import Content, OpenVersion
from lightmill.registry.tensors import plain_tensors
from lightmill.training.shards import Chunk, chunk_of, owned, read_chunks, read_whole
from tests.unit.registry.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("sharded"))


def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Cut a tensor into boxes along a grid."""
    axes = []
    for size in shape:
        inner = draw(st.sets(st.integers(1, size - 1), max_size=2)) if size > 1 else set()
        axes.append([slice(a, b) for a, b in pairwise(sorted({0, size, *inner}))])
    return list(product(*axes))


@st.composite
def divided(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[slice, ...]], list[tuple[slice, ...]]]:
    shape = tuple(draw(st.lists(st.integers(1, 6), max_size=3)))
    return shape, boxes(draw, shape), boxes(draw, shape)


def part(name: str, shape: tuple[int, ...], box: tuple[slice, ...]) -> Chunk:
    sizes = tuple(axis.stop - axis.start for axis in box)
    return Chunk(name=name, offsets=tuple(a.start for a in box), sizes=sizes, shape=shape, size_bytes=4)


def seal(world: World, tensors: dict[str, torch.Tensor]) -> OpenVersion:
    draft = world.registry.begin(AssetKind.RUN, "r")
    sealed = draft.seal_tensors(plain_tensors(tensors))
    card = RunCard(model="m", epoch=1, metrics={})
    id = world.registry.commit(draft, Content(tensors=sealed.tensors, blobs=sealed.blobs, run=card)).id
    return world.registry.open(id)


@given(divided())
@settings(max_examples=25, deadline=None)
def test_any_division_reads_what_any_other_wrote(
    world: World, case: tuple[tuple[int, ...], list[tuple[slice, ...]], list[tuple[slice, ...]]]
) -> None:
    shape, written, wanted = case
    value = torch.randn(shape)
    version = seal(world, {part("a/b", shape, box).entry: value[box].clone() for box in written})
    for box in wanted:
        out = torch.full_like(value[box], torch.nan)
        read_chunks(version, {"a/b": (part("a/b", shape, box), out)})
        assert torch.equal(out, value[box])
    assert torch.equal(read_whole(version, ["a/b"])["a/b"], value)


def test_what_is_not_there_or_of_another_shape_is_told_with_its_name(world: World) -> None:
    version = seal(world, {"whole": torch.zeros(4), "half@0": torch.zeros(2), "gap@0": torch.zeros(1)})
    for name, held in (("none", torch.zeros(3)), ("whole", torch.zeros(5)), ("half", torch.zeros(4))):
        with pytest.raises(IntegrityError, match=repr(name)):
            read_chunks(version, {name: chunk_of(name, held)})


@given(st.lists(st.sets(st.integers(0, 9)), min_size=1, max_size=5), st.integers(0, 100))
def test_each_part_is_written_by_one_of_its_holders_and_all_write_about_as_much(
    held: list[set[int]], seed: int
) -> None:
    sizes = torch.randint(1, 100, (10,), generator=torch.Generator().manual_seed(seed)).tolist()
    chunks = [
        [Chunk(name=str(n), offsets=(0,), sizes=(sizes[n],), shape=(sizes[n],), size_bytes=sizes[n]) for n in some]
        for some in held
    ]
    writers = [owned(chunks, rank) for rank in range(len(held))]
    everything = set().union(*held)
    assert sorted(entry for mine in writers for entry in mine) == sorted(map(str, everything))
    assert all(mine <= set(map(str, some)) for mine, some in zip(writers, held, strict=True))
    if all(some == held[0] for some in held):
        loads = [sum(sizes[int(entry)] for entry in mine) for mine in writers]
        assert max(loads) - min(loads) <= max(sizes)


def test_files_of_whole_tensors_keep_their_names(tmp_path: Path) -> None:
    chunk, local = chunk_of("model/weight", torch.zeros(2, 3))
    assert chunk.entry == "model/weight" and local.shape == (2, 3)
