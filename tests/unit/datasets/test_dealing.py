"""Rows dealt to lanes: positions in sealed files, and the codes of a column; without Ray."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.datasets.dealing import deal_split, parts_of
from lightmill.datasets.parquet import write_encrypted
from lightmill.datasets.reading import take_rows
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
def test_every_row_goes_to_one_lane_by_its_own_value(
    dataset: tuple[OpenVersion, RegistryLocation], section: dict[str, Any]
) -> None:
    version, location = dataset
    dealt = deal_split(version, location, DistributionSpec(**section), 2)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(sum(FILES)))
    assert all((np.diff(mine) > 0).all() for mine in dealt)
    colours = [{KEYS[n % len(KEYS)] for n in mine.tolist()} for mine in dealt]
    if section["by"] == "key":
        assert colours[0].isdisjoint(colours[1])
    if section == {"by": "class"}:
        counts = [np.bincount(mine % 3, minlength=3) for mine in dealt]
        assert (np.abs(counts[0] - counts[1]) <= 1).all()
    again = deal_split(version, location, DistributionSpec(**section), 2)
    assert all(np.array_equal(a, b) for a, b in zip(dealt, again, strict=True))


def test_a_column_that_is_not_there_is_refused_with_those_that_are(
    dataset: tuple[OpenVersion, RegistryLocation],
) -> None:
    with pytest.raises(RequestError, match="'size' is not a column of d@1; it has label, colour"):
        deal_split(*dataset, DistributionSpec(by="key", column="size"), 2)


@given(st.data())
@settings(max_examples=30)
def test_positions_find_their_files(dataset: tuple[OpenVersion, RegistryLocation], data: st.DataObject) -> None:
    version, _ = dataset
    starts = np.cumsum([0, *FILES])
    mine = np.array(sorted(data.draw(st.sets(st.integers(0, sum(FILES) - 1)))), dtype=np.int64)
    found = parts_of(version, "train", mine)
    assert all(len(p.places) and 0 <= p.places.min() <= p.places.max() < (p.entry.rows or 0) for p in found)
    numbers = [int(part.entry.path.removeprefix("train/").removesuffix(".parquet")) for part in found]
    placed = zip(numbers, found, strict=True)
    assert [int(starts[n]) + place for n, part in placed for place in part.places.tolist()] == mine.tolist()


@given(st.lists(st.integers(0, sum(FILES) - 1), max_size=30))
@settings(max_examples=15, deadline=None)
def test_rows_are_taken_in_the_order_that_is_asked_for(
    dataset: tuple[OpenVersion, RegistryLocation], places: list[int]
) -> None:
    version, location = dataset
    found = take_rows(version, location, "train", np.array(places, dtype=np.int64), ["row_id"])
    assert found.column("row_id").to_pylist() == places


def test_rows_beyond_the_split_are_refused(dataset: tuple[OpenVersion, RegistryLocation]) -> None:
    with pytest.raises(RequestError, match="has 20 rows"):
        take_rows(*dataset, "train", np.array([20]), ["row_id"])
