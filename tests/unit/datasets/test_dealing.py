"""Rows dealt to workers: positions in sealed files, and the codes of a column; without Ray."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.datasets.dealing import _of_files, distribute_split
from lightmill.datasets.parquet import write_encrypted
from lightmill.errors import RequestError
from lightmill.records.assets import FileEntry
from lightmill.records.references import AssetKind
from lightmill.records.splitting import DistributionSpec
from lightmill.registry import Content, OpenVersion, RegistryLocation
from tests.attacks.scene import dataset_card
from tests.unit.registry.world import World

FILES = (7, 1, 12)
KEYS = ["red", None, "blue", "green", "blue"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[OpenVersion, RegistryLocation]:
    """Three files of a train split: label is the row id modulo 3, `colour` a key with missing values."""
    world = World(tmp_path_factory.mktemp("dealt"))
    draft = world.registry.begin(AssetKind.DATASET, "d")
    entries, start = [], 0
    for number, rows in enumerate(FILES):
        ids = np.arange(start, start + rows)
        colour = pa.array([KEYS[n % len(KEYS)] for n in ids])
        table = pa.table({"row_id": ids, "label": ids % 3, "colour": colour, "features": ids})
        digest, size = draft.put_object(write_encrypted(table, draft.subkey, {}))
        path = f"train/{number}.parquet"
        entries.append(FileEntry(path=path, size=size, sha256=digest, object=digest, rows=rows, group="train"))
        start += rows
    card = dataset_card(columns=("colour",), classes=("0", "1", "2"))
    version = world.registry.commit(draft, Content(files=tuple(entries), dataset=card)).id
    location = RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")
    return world.registry.open(version), location


@pytest.mark.parametrize(
    "section",
    [
        {"by": "random", "seed": 2},
        {"by": "sequential"},
        {"by": "class"},
        {"by": "key", "column": "colour"},
        {"by": "class", "column": "colour"},
    ],
    ids=str,
)
def test_every_row_goes_to_one_worker_by_its_own_value(
    dataset: tuple[OpenVersion, RegistryLocation], section: dict[str, Any]
) -> None:
    version, location = dataset
    dealt = distribute_split(version, location, DistributionSpec(**section), 2)
    assert sorted(np.concatenate(dealt.places).tolist()) == list(range(sum(FILES)))
    assert dealt.sizes == tuple(len(mine) for mine in dealt.places)
    assert all((np.diff(mine) > 0).all() for mine in dealt.places)
    colours = [{KEYS[n % len(KEYS)] for n in mine.tolist()} for mine in dealt.places]
    if section["by"] == "key":
        assert colours[0].isdisjoint(colours[1])
    if section == {"by": "class"}:
        counts = [np.bincount(mine % 3, minlength=3) for mine in dealt.places]
        assert (np.abs(counts[0] - counts[1]) <= 1).all()
    again = distribute_split(version, location, DistributionSpec(**section), 2)
    assert all(np.array_equal(a, b) for a, b in zip(dealt.places, again.places, strict=True))


@pytest.mark.parametrize(
    ("section", "workers", "says"),
    [
        ({"by": "key", "column": "size"}, 2, "'size' is not a column of d@1; it has label, colour"),
        ({"by": "key", "column": "colour"}, 5, "leaves worker"),
        ({"by": "random"}, 30, "without rows"),
    ],
)
def test_what_cannot_be_dealt_is_refused(
    dataset: tuple[OpenVersion, RegistryLocation], section: dict[str, Any], workers: int, says: str
) -> None:
    with pytest.raises(RequestError, match=says):
        distribute_split(*dataset, DistributionSpec(**section), workers)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_positions_find_their_files(rows: list[int], data: st.DataObject) -> None:
    files = [
        FileEntry(path=str(n), size=1, sha256="", object="", rows=count, group="train") for n, count in enumerate(rows)
    ]
    starts = np.cumsum([0, *rows])
    mine = np.array(sorted(data.draw(st.sets(st.integers(0, int(starts[-1]) - 1)))), dtype=np.int64)
    found = _of_files(files, starts, mine)
    assert all(len(places) and 0 <= places.min() <= places.max() < (entry.rows or 0) for entry, places in found)
    assert [
        int(starts[int(entry.path)]) + place for entry, places in found for place in places.tolist()
    ] == mine.tolist()
