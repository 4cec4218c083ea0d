from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lightmill.errors import RequestError
from lightmill.models.preparation import Preparation
from lightmill.models.preparation.chance import normals, stream_of, uniforms
from lightmill.models.preparation.images import tensor
from lightmill.records.fitted import FittedPreparation
from lightmill.records.preparation import Augment

ROWS = 2000
IDS = np.arange(ROWS) * 17
PIXELS = np.random.default_rng(1).integers(0, 256, size=(ROWS, 4, 5, 2), dtype=np.uint8)
TABLE = pa.table(
    {
        "row_id": IDS,
        "image": tensor(PIXELS),
        "x": np.zeros(ROWS, dtype=np.float32),
        "text": ["one two three four five six seven eight"] * ROWS,
    }
)


def augmented(column: str, *operations: dict[str, Any], seed: int = 0, epoch: int = 0, table: pa.Table = TABLE) -> Any:
    step = Augment.model_validate({"columns": [column], "operations": operations, "seed": seed})
    made = Preparation(FittedPreparation(steps=(step,))).apply(table, training=True, epoch=epoch).column(column)
    return made.combine_chunks().to_numpy_ndarray() if column == "image" else made


def test_only_training_rows_are_changed() -> None:
    step = Augment.model_validate({"columns": ["x"], "operations": [{"op": "noise", "std": 1}]})
    assert Preparation(FittedPreparation(steps=(step,))).apply(TABLE) is TABLE


def test_a_flip_mirrors_about_as_many_images_as_asked() -> None:
    made = augmented("image", {"op": "flip", "probability": 0.3})
    flipped = (made == PIXELS[:, :, ::-1]).all(axis=(1, 2, 3))
    assert ((made == PIXELS).all(axis=(1, 2, 3)) | flipped).all()
    assert flipped.mean() == pytest.approx(0.3, abs=0.04)
    upside = augmented("image", {"op": "flip", "axis": "vertical", "probability": 1})
    np.testing.assert_array_equal(upside, PIXELS[:, ::-1])


def test_a_crop_moves_an_image_by_at_most_its_padding() -> None:
    made = augmented("image", {"op": "crop", "padding": 2})
    assert made.shape == PIXELS.shape
    padded = np.pad(PIXELS, ((0, 0), (2, 2), (2, 2), (0, 0)))
    seen = set()
    for row in range(200):
        places = [
            (dy, dx) for dy in range(5) for dx in range(5) if (made[row] == padded[row, dy : dy + 4, dx : dx + 5]).all()
        ]
        assert places
        seen.update(places)
    assert len(seen) == 25


def test_noise_is_normal_with_the_asked_deviation() -> None:
    made = augmented("x", {"op": "noise", "std": 2})
    assert made.type == pa.float32()
    assert made.to_numpy().mean() == pytest.approx(0, abs=0.15)
    assert made.to_numpy().std() == pytest.approx(2, rel=0.05)
    pixels = augmented("image", {"op": "noise", "std": 300})
    assert pixels.dtype == np.uint8
    assert pixels.min() == 0 and pixels.max() == 255


def test_missing_numbers_stay_missing() -> None:
    table = pa.table({"row_id": [1, 2], "x": [None, 1.0]})
    assert augmented("x", {"op": "noise", "std": 1}, table=table).is_null().to_pylist() == [True, False]


def test_words_are_left_out_but_never_all() -> None:
    made = augmented("text", {"op": "text_dropout", "probability": 0.9}).to_pylist()
    counts = np.array([len(text.split()) for text in made])
    assert counts.min() == 1
    assert counts.mean() == pytest.approx(8 * 0.1 + 0.9**8, abs=0.1)
    assert all(set(text.split()) <= set(TABLE.column("text")[0].as_py().split()) for text in made)


def test_chance_depends_on_seed_epoch_and_row_alone() -> None:
    noise = {"op": "noise", "std": 1}
    first = augmented("x", noise)
    assert augmented("x", noise).equals(first)
    assert not augmented("x", noise, epoch=1).equals(first)
    assert not augmented("x", noise, seed=1).equals(first)
    order = np.random.default_rng(0).permutation(ROWS)
    assert augmented("x", noise, table=TABLE.take(order)).to_pylist() == first.take(order).to_pylist()


def test_uniform_numbers_are_uniform_and_independent() -> None:
    found = uniforms(stream_of(1), np.arange(20_000), 5)
    assert found.min() >= 0 and found.max() < 1
    shares = np.histogram(found, bins=20, range=(0, 1))[0] / found.size
    np.testing.assert_allclose(shares, 0.05, atol=0.004)
    assert np.abs(np.corrcoef(found.T) - np.eye(5)).max() < 0.03
    assert np.corrcoef(found[:-1, 0], found[1:, 0])[0, 1] == pytest.approx(0, abs=0.03)
    drawn = normals(stream_of(2), np.arange(-10_000, 10_000), 2)
    assert np.isfinite(drawn).all()
    assert drawn.mean() == pytest.approx(0, abs=0.03) and drawn.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("column", "operation", "says"),
    [
        ("x", {"op": "flip"}, "'flip' does not fit column 'x'"),
        ("text", {"op": "noise", "std": 1}, "'noise' does not fit column 'text'"),
        ("x", {"op": "text_dropout", "probability": 0.1}, "not text"),
        ("row_id", {"op": "noise", "std": 1}, "needs floats"),
    ],
)
def test_an_operation_that_does_not_fit_is_refused(column: str, operation: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        augmented(column, operation)


def test_row_ids_and_tensors_are_needed() -> None:
    with pytest.raises(RequestError, match="no column 'row_id'"):
        augmented("x", {"op": "noise", "std": 1}, table=TABLE.drop_columns(["row_id"]))
    nulls = pa.table({"row_id": [1, 2], "image": tensor(PIXELS[:2], np.array([True, False]))})
    with pytest.raises(RequestError, match="1 null tensors"):
        augmented("image", {"op": "flip"}, table=nulls)
    flat = pa.table({"row_id": [1, 2], "image": tensor(PIXELS[:2, 0, 0])})
    with pytest.raises(RequestError, match=r"shape \[2\]"):
        augmented("image", {"op": "flip"}, table=flat)
