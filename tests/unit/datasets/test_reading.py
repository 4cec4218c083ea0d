"""A sealed dataset version, written as the sink writes it and read as people and trainers read it; without Ray."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lightmill.datasets.reading import read_rows, split_files
from lightmill.datasets.sealed import PreparedBlock, SealedRows, SealedSource, SealTask
from lightmill.errors import IntegrityError, RequestError
from lightmill.registry import Content, OpenVersion, RegistryLocation
from tests.attacks.scene import DATASET, dataset_card
from tests.unit.registry.world import World


def as_it_is(block: pa.Table) -> PreparedBlock:
    """Keep every row; one of an empty block's neighbours is also kept aside."""
    aside = block.filter(pa.array(block.column("row_id").to_numpy() == 9)).drop_columns(["split"])
    return PreparedBlock(rows=block, aside=aside)


def sealed(folder: Path) -> tuple[World, RegistryLocation, OpenVersion]:
    world = World(folder)
    location = RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")
    draft = world.registry.begin(DATASET, "d")
    task = SealTask(location, draft.id, {"ink": "secret"}, as_it_is)
    block = pa.table(
        {"row_id": range(10), "ink": [float(n) for n in range(10)], "split": pa.array([0, 1] * 5, pa.int8())}
    )
    parts = ([block.slice(0, 6)], [block.slice(6), block.slice(0, 0)], [block.slice(0, 0)])
    found = sum((task(iter(blocks), number) for number, blocks in enumerate(parts)), SealedRows())
    id = world.registry.commit(draft, Content(files=found.files, dataset=dataset_card())).id
    return world, location, world.registry.open(id)


@pytest.fixture
def place(tmp_path: Path) -> tuple[World, RegistryLocation, OpenVersion]:
    return sealed(tmp_path)


def test_each_split_has_files_of_its_own(place: tuple[World, RegistryLocation, OpenVersion]) -> None:
    _, location, version = place
    assert [(f.path, f.rows) for f in split_files(version, "train")] == [
        ("train/00000-00000.parquet", 3),
        ("train/00001-00000.parquet", 2),
    ]
    assert sum(f.rows or 0 for f in split_files(version, "validation")) == 5
    assert split_files(version, "test") == ()
    assert [(f.path, f.rows) for f in version.manifest.files if f.group == "quarantine"] == [
        ("quarantine/00001-00000.parquet", 1)
    ]
    with pytest.raises(RequestError, match="train, validation, test"):
        split_files(version, "all")
    rows = read_rows(version, location, "train", 0, 100)
    assert rows.column_names == ["row_id", "ink"]
    assert rows.column("row_id").to_pylist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ("offset", "limit", "expected"),
    [
        (0, 2, [0, 2]),
        (2, 2, [4, 6]),
        (3, 9, [6, 8]),
        (4, 1, [8]),
        (5, 9, []),
        (99, 1, []),
        (0, 0, []),
        (1, 3, [2, 4, 6]),
    ],
)
def test_any_window_of_rows_is_read(
    place: tuple[World, RegistryLocation, OpenVersion], offset: int, limit: int, expected: list[int]
) -> None:
    _, location, version = place
    rows = read_rows(version, location, "train", offset, limit)
    assert (rows.column("row_id").to_pylist() if rows.num_rows else []) == expected


def test_a_trainer_s_task_reads_the_columns_it_asks_for(place: tuple[World, RegistryLocation, OpenVersion]) -> None:
    _, location, version = place
    source = SealedSource(location, version.id, split_files(version, "validation"), ["ink"])
    tables = [pa.concat_tables(task.read_fn()) for task in source.get_read_tasks(1)]
    assert pa.concat_tables(tables).to_pydict() == {"ink": [1.0, 3.0, 5.0, 7.0, 9.0]}


def test_a_file_that_was_changed_is_refused_by_name_before_it_is_parsed(
    place: tuple[World, RegistryLocation, OpenVersion],
) -> None:
    world, location, version = place
    entry = split_files(version, "train")[1]
    path = world.path(f"b/{entry.object[:2]}/{entry.object}" if entry.object else "")
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    assert read_rows(version, location, "train", 0, 3).num_rows == 3
    with pytest.raises(IntegrityError, match=rf"{entry.object}.*train/00001"):
        read_rows(version, location, "train", 0, 4)
