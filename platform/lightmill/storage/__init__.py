"""The object-store port and its adapters. Stores bytes under names that are written once.

Rules of this room:

* One primitive carries every promise: `create` makes a name that did not exist, in one step, durably, or
  says that somebody else made it. Nothing is ever overwritten.
* An adapter translates foreign exceptions once, into the errors that the port names.
* One behavioural suite, tests/contract/test_blob_store.py, runs on every adapter.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from lightmill.errors import RequestError
from lightmill.storage.local import LocalStore
from lightmill.storage.memory import MemoryStore
from lightmill.storage.port import BlobStore, check_name

__all__ = ["BlobStore", "LocalStore", "MemoryStore", "check_name", "open_store"]


def open_store(url_or_path: str | Path) -> BlobStore:
    """Return the store at a directory path, a file:// URL or memory:// (a new, empty one each time).

    Nothing is opened or made yet; call `probe` before several writers share a store.

    Raises:
        RequestError: When the URL has another scheme, a remote host, or no path.
    """
    text = str(url_or_path)
    if "://" not in text:
        if not text:
            raise RequestError("The store needs a path or a URL; this one is empty")
        return LocalStore(Path(text).expanduser())
    url = urlsplit(text)
    if url.scheme == "memory" and not url.netloc and not url.path.strip("/"):
        return MemoryStore()
    if url.scheme == "file" and url.netloc in ("", "localhost") and url.path and not (url.query or url.fragment):
        return LocalStore(Path(unquote(url.path)))
    raise RequestError(
        f"No store can be opened at {text!r}; this version supports a directory path, file:///a/path and memory://"
    )
