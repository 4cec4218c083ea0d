"""Where bytes lie: nothing lost, nothing twice, limits kept, layers apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.registry.packing import BLOB_BYTES, LAYER_BYTES, OWN_BLOB_BYTES, PACK_BYTES, layer_of, pack

MIB = 1 << 20
SIZES = st.one_of(st.integers(0, 3 * MIB), st.integers(0, 200 * MIB), st.sampled_from([8 * MIB, 64 * MIB, 128 * MIB]))


@given(st.lists(st.tuples(SIZES, st.sampled_from(["a", "b", "c"])), max_size=40))
def test_every_byte_lies_in_one_place_and_every_blob_keeps_its_limit(items: list[tuple[int, str]]) -> None:
    sizes, layers = [size for size, _ in items], [layer for _, layer in items]
    parts = pack(sizes, layers)
    done = [0] * len(sizes)
    filled: dict[int, int] = {}
    for part in parts:
        assert part.start == done[part.item] and part.length > 0
        assert part.offset == filled.get(part.blob, 0)
        done[part.item] += part.length
        filled[part.blob] = part.offset + part.length
    assert done == sizes
    assert all(0 < size <= BLOB_BYTES for size in filled.values())
    assert list(filled) == list(range(len(filled)))
    for blob in filled:
        mine = [part for part in parts if part.blob == blob]
        if any(sizes[part.item] >= OWN_BLOB_BYTES for part in mine):
            assert len(mine) == 1
        else:
            assert filled[blob] <= PACK_BYTES
        changes = [k for k in range(1, len(mine)) if layers[mine[k].item] != layers[mine[k - 1].item]]
        assert all(mine[k].offset < LAYER_BYTES for k in changes)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.mlp.up.weight", "model.layers.3"),
        ("model.layers.31.mlp.experts.7.up.weight", "model.layers.31.mlp.experts.7"),
        ("head.weight", "head"),
        ("head.bias", "head"),
        ("weight", ""),
        ("0.bias", "0"),
    ],
)
def test_a_name_tells_its_layer(name: str, layer: str) -> None:
    assert layer_of(name) == layer


def test_a_pack_ends_with_its_layer_once_it_is_worth_it() -> None:
    sizes = [MIB // 2, MIB // 2, 10, 20, 30]
    assert [part.blob for part in pack(sizes, ["a", "a", "b", "b", "c"])] == [0, 0, 1, 1, 1]
    assert [part.blob for part in pack(sizes)] == [0] * 5


def test_packing_does_not_depend_on_what_came_before_a_large_tensor() -> None:
    tail, layers = [9 * MIB, 3, 2 * MIB, 4], ["x", "y", "y", "z"]
    alone = [(p.offset, p.length) for p in pack(tail, layers)]
    for head in ([], [5], [MIB, 7, 40 * MIB]):
        parts = pack([*head, *tail], [*("h" * len(head)), *layers])
        assert [(p.offset, p.length) for p in parts if p.item >= len(head)] == alone
