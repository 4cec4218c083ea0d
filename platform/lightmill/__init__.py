"""Lightmill: datasets in, secured model endpoints out, on one Ray cluster.

Importing this package loads neither ray nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightmill.sdk import Client

__all__ = ["__version__", "connect"]
__version__ = "0.1.0"


def connect(url: str | None = None, api_key: str | None = None) -> Client:
    """Return a client of the platform at `url`; see `lightmill.sdk.connect`."""
    from lightmill.sdk import connect as sdk_connect

    return sdk_connect(url, api_key)
