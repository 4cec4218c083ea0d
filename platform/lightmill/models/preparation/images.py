"""Images: decode bytes or files to pixels, and resize pixels to tensors. Pillow does the work, within limits.

The loops over images are unavoidable: each is decoded on its own.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.columns import column_of, is_text, one_array, row_name, with_column
from lightmill.records.preparation import ImageDecode, ImageResize

PIXELS = pa.struct(
    [("pixels", pa.large_binary()), ("height", pa.int32()), ("width", pa.int32()), ("channels", pa.int32())]
)
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_CHANNELS = b"channels"


class Decoder:
    """An `image_decode` step made ready to apply."""

    def __init__(self, step: ImageDecode, root: Path | None) -> None:
        """Find Pillow.

        Raises:
            RequestError: Pillow is not installed, or images are paths and there is no root.
        """
        self._step = step
        self._pillow = _pillow("PIL.Image")
        self._operations = _pillow("PIL.ImageOps")
        if step.source == "path" and root is None:
            raise RequestError(
                f"Step 'image_decode': column {step.column!r} holds paths, but no root folder is given here. Give "
                "`root`, or send the images' bytes."
            )
        self._root = root.resolve() if root else None

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the column as a struct of `pixels` (uint8 [height, width, channels]) and its sizes.

        Raises:
            RequestError: The column is missing or of another type, or an image is refused and `on_error` is `fail`.
        """
        column = one_array(column_of(table, self._step.column, "image_decode"))
        path = self._step.source == "path"
        binary = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
        if not (pa.types.is_null(column.type) or (is_text(column.type) if path else binary)):
            wanted = "text (paths)" if path else "binary (bytes)"
            raise RequestError(
                f"Step 'image_decode': column {self._step.column!r} has type {column.type}, not {wanted}. Set `source`."
            )
        images = [self._row(table, place, value.as_py()) for place, value in enumerate(column)]
        done = with_column(table, self._step.column, pa.array(images, type=PIXELS))
        place = done.schema.get_field_index(self._step.column)
        # A table without an image still says how many channels its images have.
        field = pa.field(self._step.column, PIXELS, metadata={_CHANNELS: str(len(self._step.mode))})
        return done.set_column(place, field, done.column(place))

    def _row(self, table: pa.Table, place: int, value: Any) -> dict[str, Any] | None:
        if value is None:
            return None
        try:
            return self._decode(self._read(value) if self._step.source == "path" else value)
        except Exception as exc:  # decoders raise what they like for bad bytes
            if self._step.on_error == "null":
                return None
            raise RequestError(
                f"Step 'image_decode': the image in {row_name(table, place)} is refused: {exc} Correct it, filter it "
                "out, or set `on_error: null`."
            ) from exc

    def _read(self, value: str) -> bytes:
        root = self._root or Path()
        path = (root / value).resolve()
        if not path.is_relative_to(root):
            raise ValueError(f"its path {value[:200]!r} leads out of the root folder.")
        if not path.is_file():
            raise ValueError(f"there is no file {value[:200]!r} below the root folder.")
        if path.stat().st_size > self._step.max_bytes:
            raise ValueError(f"its file has {path.stat().st_size:,} bytes; max_bytes is {self._step.max_bytes:,}.")
        return path.read_bytes()

    def _decode(self, data: bytes) -> dict[str, Any]:
        if len(data) > self._step.max_bytes:
            raise ValueError(f"it has {len(data):,} bytes; max_bytes is {self._step.max_bytes:,}.")
        with self._pillow.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > self._step.max_pixels:
                raise ValueError(f"it has {width} x {height} pixels; max_pixels is {self._step.max_pixels:,}.")
            upright = self._operations.exif_transpose(image).convert(self._step.mode)
        channels = len(upright.getbands())
        return {"pixels": upright.tobytes(), "height": upright.height, "width": upright.width, "channels": channels}


class Resizer:
    """An `image_resize` step made ready to apply."""

    def __init__(self, step: ImageResize) -> None:
        """Find Pillow.

        Raises:
            RequestError: Pillow is not installed.
        """
        self._step = step
        self._pillow = _pillow("PIL.Image")
        self._operations = _pillow("PIL.ImageOps")

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the column as a tensor [height, width, channels]; null images stay null.

        Raises:
            RequestError: The column is missing, holds no decoded images, or images of different channels.
        """
        step = self._step
        column = one_array(column_of(table, step.column, "image_resize"))
        if column.type != PIXELS:
            raise RequestError(
                f"Step 'image_resize': column {step.column!r} has type {column.type}, not decoded images. Put an "
                "`image_decode` step before."
            )
        found = list(self._resized(column))
        channels = {image.shape[2] for image in found if image is not None}
        if len(channels) > 1:
            raise RequestError(
                f"Step 'image_resize': column {step.column!r} has images of {sorted(channels)} channels. Decode them "
                "with one `mode`."
            )
        said = (table.schema.field(step.column).metadata or {}).get(_CHANNELS, b"3")
        shape = (step.height, step.width, channels.pop() if channels else int(said))
        pixels = np.zeros((len(found), *shape), dtype=np.uint8)
        for place, image in enumerate(found):
            if image is not None:
                pixels[place] = image
        values = pixels.astype(np.float32) / np.float32(255) if step.dtype == "float32" else pixels
        missing = np.array([image is None for image in found], dtype=np.bool_)
        return with_column(table, step.column, tensor(values, missing))

    def _resized(self, column: pa.StructArray) -> Iterator[np.ndarray | None]:
        step = self._step
        size = (step.width, step.height)
        how = getattr(self._pillow.Resampling, step.filter.upper())
        change = {
            "stretch": lambda image: image.resize(size, how),
            "cover": lambda image: self._operations.fit(image, size, how),
            "contain": lambda image: self._operations.pad(image, size, how),
        }[step.fit]
        for scalar in column:
            row = scalar.as_py()
            if row is None:
                yield None
                continue
            image = self._pillow.frombytes(_MODES[row["channels"]], (row["width"], row["height"]), row["pixels"])
            yield np.asarray(change(image)).reshape(step.height, step.width, row["channels"])


def tensor(values: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    """Return an array [rows, ...] as a column of tensors of fixed shape, null where `missing` bool [rows] says so."""
    shape = values.shape[1:]
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    mask = pa.array(missing) if missing is not None and missing.any() else None
    storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape)), mask=mask)
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(storage.type.value_type, shape), storage)


def _pillow(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise RequestError(
            f"Image steps need the package 'pillow' ({exc}). Install it with: pip install \"lightmill[images]\""
        ) from exc
