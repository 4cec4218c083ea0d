"""The object-store port and its adapters. Stores bytes under names that are written once.

Rules of this room:

* One primitive carries every promise: `create` makes a name that did not exist, in one step, durably, or
  says that somebody else made it. Nothing is ever overwritten.
* An adapter translates foreign exceptions once, into the errors that the port names.
* One behavioural suite, tests/contract/test_blob_store.py, runs on every adapter.
* An adapter makes one attempt. `RetryingStore` repeats, by a policy; remote stores come wrapped in it.
* obstore is loaded when a remote store is opened, not before.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from lightmill.errors import RequestError
from lightmill.storage.address import CREDENTIALS, parse_address
from lightmill.storage.local import LocalStore
from lightmill.storage.memory import MemoryStore
from lightmill.storage.port import BlobStore, check_name
from lightmill.storage.requests import RequestMeter, StoreRequests
from lightmill.storage.retry import RetryingStore, RetryPolicy

__all__ = [
    "BlobStore",
    "LocalStore",
    "MemoryStore",
    "RetryPolicy",
    "RetryingStore",
    "StoreRequests",
    "check_name",
    "open_store",
]


def open_store(url_or_path: str | Path) -> BlobStore:
    """Return the store at a directory path, a file, s3, gs or az URL, or memory:// (a new, empty one each time).

    A remote store is a `RetryingStore`, whose `requests` tell what it has sent. Nothing is opened, made or asked yet;
    call `probe` before several writers share a store. docs/stores.md explains the URLs and where credentials come
    from.

    Raises:
        RequestError: When the URL has another scheme, holds a secret, or is malformed. It is not quoted.
    """
    text = str(url_or_path)
    if "://" not in text:
        if not text:
            raise RequestError("The store needs a path or a URL; this one is empty")
        return LocalStore(Path(text).expanduser())
    scheme = text.partition("://")[0]
    if scheme in CREDENTIALS:
        return _open_remote(text)
    if text.rstrip("/") == "memory:":
        return MemoryStore()
    url = urlsplit(text) if scheme == "file" else None
    if url and url.netloc in ("", "localhost") and url.path and not (url.query or url.fragment):
        return LocalStore(Path(unquote(url.path)))
    raise RequestError(
        f"No store can be opened at this {scheme[:20]!r} URL; use a directory path, file:///a/path, "
        "s3://bucket/path, gs://bucket/path, az://container/path or memory://"
    )


def _open_remote(text: str) -> RetryingStore:
    address = parse_address(text)
    from lightmill.storage.remote import open_remote  # loads obstore

    meter = RequestMeter()
    return RetryingStore(open_remote(address, meter=meter), meter=meter)
