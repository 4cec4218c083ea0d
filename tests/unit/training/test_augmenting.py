"""Augmentation while training: the same pixels for the same row and epoch, however rows are shared out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from lightmill.datasets.carried import STORED, stored_columns, training_preparation
from lightmill.errors import RequestError
from lightmill.models.preparation import Preparation, Resources, fit
from lightmill.records.assets import DatasetCard
from lightmill.records.signature import Architecture
from lightmill.training.feed import KeptFeed, Origin
from lightmill.training.lanes import Lanes, Positions
from lightmill.training.objectives import CrossEntropy
from lightmill.training.rows import Rows
from tests.attacks.scene import dataset_card
from tests.unit.models.preparation.examples import steps

CPU = torch.device("cpu")
SIDE, ROWS = 6, 24
IMAGES = [
    {
        "step": "augment",
        "columns": ["image"],
        "operations": [{"op": "flip"}, {"op": "crop", "padding": 2}, {"op": "noise", "std": 2.0}],
        "seed": 7,
    },
    {"step": "features", "columns": ["image"]},
]
NUMBERS = [
    {"step": "standardize", "columns": ["x", "y"]},
    {"step": "augment", "columns": ["x"], "operations": [{"op": "noise", "std": 0.5}]},
    {"step": "features", "columns": ["x", "y"]},
]


def source() -> pa.Table:
    chance = np.random.default_rng(1)
    pixels = chance.integers(0, 256, (ROWS, SIDE, SIDE, 1), dtype=np.uint8)
    return pa.table(
        {
            "row_id": pa.array(np.arange(ROWS) * 3),
            "image": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels),
            "x": chance.normal(size=ROWS),
            "y": chance.normal(size=ROWS),
        }
    )


def prepared(declared: list[dict[str, Any]], width: int) -> tuple[pa.Table, DatasetCard, Preparation]:
    """What ingest seals, the card, and the whole preparation to compare with."""
    table = source()
    record = fit(steps(*declared), lambda: [table], folder=Path()).record()
    now, training = training_preparation(record, table.slice(0, 0), Resources())
    done = Preparation(now).apply(table)
    files = {"row_id": done.column("row_id"), "label": pa.array(np.arange(ROWS) % 2)}
    card = dataset_card()
    shaped = {"features": card.features.model_copy(update={"shape": (width,)}), "training": training}
    return pa.table({**files, **stored_columns(done, training)}), card.model_copy(update=shaped), Preparation(record)


@dataclass(kw_only=True)
class Tabled(Origin):
    """Rows of a table that lies in memory, the same as of a sealed file."""

    rows: pa.Table
    places: tuple[Positions, ...]

    def table(self, positions: Positions, columns: tuple[str, ...]) -> pa.Table:
        return self.rows.take(pa.array(positions)).select(columns)


def seen(table: pa.Table, card: DatasetCard, workers: int, epoch: int) -> dict[int, list[float]]:
    """The features of every row, by its id, as that many workers get them; the label tells the row."""
    found: dict[int, list[float]] = {}
    objective = CrossEntropy(card, Architecture(name="logistic"))
    named = table.set_column(table.schema.get_field_index("label"), "label", table.column("row_id"))
    lanes = Lanes([ROWS // 6] * 6, 5)
    origin = Tabled(rows=named, places=tuple(np.arange(lane, ROWS, 6) for lane in range(6)))
    for worker in range(workers):
        feed = KeptFeed(origin, Rows(objective, card), lanes, lanes.share(worker, workers), worker, CPU)
        for features, label in feed.epoch(epoch):
            found |= dict(zip(label.tolist(), features.tolist(), strict=True))
    assert sorted(found) == table.column("row_id").to_pylist()
    return found


@pytest.mark.parametrize(("declared", "width"), [(IMAGES, SIDE * SIDE), (NUMBERS, 2)], ids=["images", "numbers"])
def test_a_row_is_the_same_for_any_number_of_workers_and_in_a_rerun(declared: list[Any], width: int) -> None:
    table, card, whole = prepared(declared, width)
    alone = seen(table, card, 1, epoch=2)
    assert alone == seen(table, card, 1, epoch=2) == seen(table, card, 3, epoch=2)
    assert alone == seen(table, card, 2, epoch=2)
    other = seen(table, card, 1, epoch=3)
    assert sum(alone[row] != other[row] for row in alone) == ROWS
    done = whole.apply(source(), training=True, epoch=2)
    flat = done.column("features").combine_chunks().storage.flatten().to_numpy().reshape(ROWS, -1)
    np.testing.assert_array_equal(np.array([alone[row] for row in sorted(alone)], dtype=np.float32), flat)


@pytest.mark.parametrize(("declared", "width"), [(IMAGES, SIDE * SIDE), (NUMBERS, 2)], ids=["images", "numbers"])
def test_validation_and_serving_are_never_augmented(declared: list[Any], width: int) -> None:
    table, card, whole = prepared(declared, width)
    rows = Rows(CrossEntropy(card, Architecture(name="logistic")), card)
    assert rows.changing
    features, _ = rows.batch(table)
    done = whole.apply(source()).column("features").combine_chunks().storage.flatten().to_numpy()
    np.testing.assert_array_equal(features.numpy(), done.reshape(ROWS, -1))
    assert not torch.equal(features, rows.batch(table, epoch=0)[0])


def test_files_hold_what_the_later_steps_read_and_nothing_more() -> None:
    table, card, _ = prepared(NUMBERS, 2)
    assert table.column_names == ["row_id", "label", "prepared_x", "prepared_y"]
    rows = Rows(CrossEntropy(card, Architecture(name="logistic")), card)
    assert set(rows.columns) == set(table.column_names)
    images, card, _ = prepared(IMAGES, SIDE * SIDE)
    assert images.schema.field("prepared_image").type == pa.list_(pa.uint8(), SIDE * SIDE)
    assert card.training is not None and card.training.columns[0].shape == (SIDE, SIDE, 1)


def test_without_augmentation_nothing_waits_and_taken_names_are_refused() -> None:
    table = source()
    plain = fit(steps(NUMBERS[0], NUMBERS[2]), lambda: [table], folder=Path()).record()
    assert training_preparation(plain, table.slice(0, 0), Resources()) == (plain, None)
    noisy = fit(steps(*NUMBERS), lambda: [table], folder=Path()).record()
    taken = table.slice(0, 0).append_column(STORED + "x", pa.array([], pa.int64()))
    with pytest.raises(RequestError, match="rename column 'prepared_x'"):
        training_preparation(noisy, taken, Resources())
