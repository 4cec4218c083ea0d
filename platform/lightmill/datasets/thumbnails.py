"""Small pictures for the profile: encoded images as they are, and uint8 tensors as PNG."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt

BYTES_MAX = 32 << 10
_KINDS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"))


def encoded_uri(image: bytes) -> str | None:
    """Return a data URI of a PNG, JPEG, GIF or WebP of at most 32 KiB; None for anything else."""
    if len(image) > BYTES_MAX:
        return None
    kind = next((name for magic, name in _KINDS if image.startswith(magic)), None)
    if kind is None and image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        kind = "webp"
    return None if kind is None else f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def pixels_uri(pixels: npt.NDArray[np.uint8]) -> str | None:
    """Return a data URI of pixels uint8 [height, width], [height, width, 1] or [height, width, 3], if small."""
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or pixels.size > BYTES_MAX or not pixels.size:
        return None
    height, width, channels = pixels.shape
    # Each line begins with its filter, 0; see the PNG specification (RFC 2083), sections 4.1 and 6.
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * channels)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    image = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
