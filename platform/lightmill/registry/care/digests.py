"""Every blob and manifest is named by the SHA-256 of its bytes, so anybody can check it."""

from __future__ import annotations

import hashlib
import re

_DIGESTED = re.compile(r"(?:q/)?[bm]/([0-9a-f]{2})/([0-9a-f]{64})")


def digest_of(name: str) -> str | None:
    """Return the digest that an object's name promises; None when the name promises none."""
    match = _DIGESTED.fullmatch(name)
    return match[2] if match and match[2].startswith(match[1]) else None


def is_whole(name: str, data: bytes) -> bool:
    """Whether the bytes are those that the name promises."""
    return hashlib.sha256(data).hexdigest() == digest_of(name)
