"""Images as bodies: `multipart/form-data` with a file for each row, for a model whose input is an image.

A model of named columns takes the files' bytes where it takes bytes, and its preparation decodes them as in training;
other fields of the form are values of other columns. A model of tensors takes pixels: [height, width, channels] or
[channels, height, width], whole numbers 0 to 255, or 0 to 1 where it computes in floats; images are stretched to its
size. An image of more pixels than `MAX_PIXELS` is refused from its header, before it is decoded.
"""

from __future__ import annotations

import importlib
import io
from typing import Any

import numpy as np

from lightmill.errors import RequestError, TooLargeError
from lightmill.records.signature import TensorSpec
from lightmill.serving.fitting import field_of
from lightmill.serving.protocols.forms import Form
from lightmill.serving.protocols.multipart import Part, parts_of
from lightmill.serving.protocols.values import load, rows_of
from lightmill.serving.tensors import (
    BYTES,
    DTYPES,
    Array,
    Body,
    InferRequest,
    ModelDescription,
    Tensor,
    shape_text,
    short,
)

MULTIPART = "multipart/form-data"
MAX_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_RANKS = (3, 4)


def parse(body: Body, model: ModelDescription, form: Form) -> InferRequest:
    """Read a form of images.

    Raises:
        RequestError: It is no form, a field is no input, a file is no image, or the model takes no images.
        TooLargeError: An image, or all of them, would have too many pixels.
    """
    fields: dict[str, list[Part]] = {}
    for part in parts_of(body, form.parameters.get("boundary", "")):
        fields.setdefault(part.name, []).append(part)
    if not fields:
        raise RequestError("The multipart body has no part; send a file for each row.")
    specs = {spec.name: spec for spec in model.signature.inputs}
    if len(specs) == 1 and len(fields) == 1 and not model.by_column:
        fields = {next(iter(specs)): next(iter(fields.values()))}
    unknown = fields.keys() - specs.keys()
    if unknown:
        raise RequestError(f"The form has a field {short(min(unknown))}; the model takes {', '.join(specs)}.")
    read = _column if model.by_column else _pixels
    return InferRequest(inputs=tuple(read(parts, specs[name]) for name, parts in fields.items()), outputs=form.outputs)


def _column(parts: list[Part], spec: TensorSpec) -> Tensor:
    values = [_value(part, spec) for part in parts]
    return Tensor(name=spec.name, datatype=spec.datatype, array=rows_of(values))


def _value(part: Part, spec: TensorSpec) -> Any:
    if part.file is not None:
        if spec.datatype != BYTES:
            raise RequestError(f"Field {field_of(spec.name)} must be {spec.datatype}, not a file.")
        return bytes(part.content)
    try:
        text = bytes(part.content).decode()
    except UnicodeDecodeError as exc:
        raise RequestError(f"Field {field_of(spec.name)} is no text in UTF-8; send bytes as a file.") from exc
    if spec.datatype == BYTES and len(spec.shape) == 1:
        return text
    return load(text.encode()) if text else None


def _pixels(parts: list[Part], spec: TensorSpec) -> Tensor:
    height, width, channels, first = _layout(spec)
    if len(parts) * height * width > MAX_PIXELS:
        raise TooLargeError(f"{len(parts)} images of {height} x {width} pixels are more than {MAX_PIXELS:,} pixels.")
    images = []
    for place, part in enumerate(parts):
        pixels = _decoded(part.content, (height, width), _MODES[channels], f"{field_of(spec.name)}, file {place}")
        images.append(np.moveaxis(pixels, -1, 0) if first else pixels)
    array = np.stack(images)
    if len(spec.shape) == min(_RANKS):
        array = array[..., 0]
    dtype = DTYPES[spec.datatype]
    array = array.astype(dtype) / dtype.type(255) if dtype.kind == "f" else array.astype(dtype)
    return Tensor(name=spec.name, datatype=spec.datatype, array=np.ascontiguousarray(array))


def _layout(spec: TensorSpec) -> tuple[int, int, int, bool]:
    """Return height, width, channels, and whether channels come first."""
    sizes = spec.shape[1:]
    takes_pixels = spec.datatype in ("UINT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")
    if takes_pixels and len(spec.shape) in _RANKS and -1 not in sizes:
        if len(sizes) == min(_RANKS) - 1:
            return sizes[0], sizes[1], 1, False
        if sizes[-1] in _MODES:
            return sizes[0], sizes[1], sizes[2], False
        if sizes[0] in _MODES:
            return sizes[1], sizes[2], sizes[0], True
    raise RequestError(
        f"The model's input {spec.name!r} is {spec.datatype} {shape_text(spec.shape)}, which is no image; send tensors."
    )


def _decoded(content: memoryview, size: tuple[int, int], mode: str, where: str) -> Array:
    pillow, operations = _pillow("PIL.Image"), _pillow("PIL.ImageOps")
    try:
        with pillow.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise TooLargeError(f"Field {where} has {width} x {height} pixels; at most {MAX_PIXELS:,} are decoded.")
            upright = operations.exif_transpose(image).convert(mode)
    except TooLargeError:
        raise
    except pillow.DecompressionBombError as exc:
        raise TooLargeError(f"Field {where} has too many pixels; at most {MAX_PIXELS:,} are decoded.") from exc
    except Exception as exc:  # decoders raise what they like for bad bytes
        formats = ", ".join(FORMATS)
        raise RequestError(f"Field {where} is no image that can be read ({formats}): {str(exc)[:100]}.") from exc
    if upright.size != (size[1], size[0]):
        upright = upright.resize((size[1], size[0]), pillow.Resampling.BILINEAR)
    return np.asarray(upright).reshape(*size, -1)


def _pillow(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise RequestError(
            "This endpoint reads images only where Pillow is installed: pip install 'lightmill[images]'. Or send "
            "tensors."
        ) from exc
