from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lightmill.errors import RequestError
from lightmill.models.preparation import Preparation, Resources
from lightmill.records.fitted import FittedPreparation
from lightmill.records.preparation import ImageDecode
from tests.unit.models.preparation.examples import png, prepare

DECODE = {"step": "image_decode", "column": "image"}


def resize(**more: Any) -> dict[str, Any]:
    return {"step": "image_resize", "column": "image", "height": 2, "width": 3, **more}


def images(*values: bytes | None) -> pa.Table:
    return pa.table({"row_id": range(40, 40 + len(values)), "image": pa.array(values, pa.binary())})


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pixels_are_those_of_the_image(mode: str) -> None:
    made = prepare(images(png(3, 2, 1, mode)), {**DECODE, "mode": mode}, resize()).column("image")
    with Image.open(io.BytesIO(png(3, 2, 1, mode))) as image:
        wanted = np.asarray(image).reshape(2, 3, -1)
    assert made.type == pa.fixed_shape_tensor(pa.uint8(), wanted.shape)
    np.testing.assert_array_equal(made.chunk(0).to_numpy_ndarray()[0], wanted)


def test_floats_are_shares_of_255() -> None:
    table = images(png(5, 7, 2), png(2, 2, 3))
    whole = prepare(table, DECODE, resize()).column("image").chunk(0).to_numpy_ndarray()
    shares = prepare(table, DECODE, resize(dtype="float32")).column("image").chunk(0).to_numpy_ndarray()
    assert shares.dtype == np.float32
    np.testing.assert_array_equal(shares, whole.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("fit", ["stretch", "cover", "contain"])
@pytest.mark.parametrize("how", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_any_fit_and_filter_gives_the_asked_size(fit: str, how: str) -> None:
    made = prepare(images(png(9, 2), png(1, 8)), DECODE, resize(fit=fit, filter=how)).column("image")
    assert made.chunk(0).to_numpy_ndarray().shape == (2, 2, 3, 3)


def test_contain_adds_black_and_cover_cuts() -> None:
    buffer = io.BytesIO()
    Image.new("L", (6, 2), 200).save(buffer, "PNG")
    decode = {**DECODE, "mode": "L"}
    square = {"height": 6, "width": 6}
    contained = prepare(images(buffer.getvalue()), decode, resize(**square, fit="contain")).column("image").chunk(0)
    assert contained.to_numpy_ndarray()[0, :, :, 0].sum(axis=1).tolist() == [0, 0, 1200, 1200, 0, 0]
    covered = prepare(images(buffer.getvalue()), decode, resize(**square, fit="cover")).column("image").chunk(0)
    assert (covered.to_numpy_ndarray() == 200).all()


def test_the_orientation_of_a_photograph_is_applied() -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2)).save(buffer, "JPEG", exif=exif)
    made = prepare(images(buffer.getvalue()), DECODE).column("image")[0].as_py()
    assert (made["height"], made["width"]) == (4, 2)


def test_null_images_stay_null() -> None:
    made = prepare(images(None, png()), DECODE, resize()).column("image")
    assert made.is_null().to_pylist() == [True, False]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (bomb(9_000, 9_000), "9000 x 9000 pixels; max_pixels is 50,000,000"),
        (bomb(60_000, 60_000), "3600000000 pixels"),
        (bomb(100, 100), "row_id 40 is refused"),
        (png()[:40], "row_id 40 is refused"),
        (b"not an image", "cannot identify"),
        (b"", "row_id 40 is refused"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot identify"),
    ],
    ids=["bomb", "large bomb", "no pixels", "truncated", "text", "empty", "svg"],
)
def test_a_bad_image_is_refused_with_its_row_or_made_null(data: bytes, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        prepare(images(data), DECODE)
    made = prepare(images(data, png()), {**DECODE, "on_error": "null"}, resize())
    assert made.column("image").is_null().to_pylist() == [True, False]


def test_bytes_beyond_the_limit_are_not_opened() -> None:
    with pytest.raises(RequestError, match="max_bytes is 10"):
        prepare(images(png()), {**DECODE, "max_bytes": 10})


def test_paths_are_read_below_the_root_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "cats").mkdir(parents=True)
    (root / "cats" / "a.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png())
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    record = FittedPreparation(steps=(ImageDecode(column="image", source="path"),))
    with pytest.raises(RequestError, match="no root folder"):
        Preparation(record)
    preparation = Preparation(record, resources=Resources(root=root))
    found = preparation.apply(pa.table({"image": ["cats/a.png", None]})).column("image")
    assert found.is_null().to_pylist() == [False, True]
    for path in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        with pytest.raises(RequestError, match="leads out of the root"):
            preparation.apply(pa.table({"image": [path]}))
    with pytest.raises(RequestError, match="no file 'cats/b.png'"):
        preparation.apply(pa.table({"image": ["cats/b.png"]}))


def test_types_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match="not binary"):
        prepare(pa.table({"image": ["a.png"]}), DECODE)
    with pytest.raises(RequestError, match="not decoded images"):
        prepare(images(png()), resize())
    mixed = pa.concat_tables([prepare(images(png()), DECODE), prepare(images(png()), {**DECODE, "mode": "L"})])
    with pytest.raises(RequestError, match=r"\[1, 3\] channels"):
        prepare(mixed, resize())


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_a_table_without_an_image_has_the_shape_of_one_with(mode: str, channels: int) -> None:
    steps: list[dict[str, Any]] = [
        {"step": "image_decode", "column": "i", "mode": mode, "on_error": "null"},
        {"step": "filter", "where": "not is_null(i)"},
        {"step": "image_resize", "column": "i", "height": 2, "width": 5},
    ]
    preparation = Preparation(FittedPreparation.model_validate({"steps": steps}))
    for images in ([], [None], [b"no image"], [png()]):
        found = preparation.apply(pa.table({"i": pa.array(images, type=pa.binary())}))
        assert found.schema.field("i").type.shape == [2, 5, channels]
