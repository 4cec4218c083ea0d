"""A store in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage, through obstore.

Rules of this adapter:

* `create` is a single put on the condition that the name is free (`If-None-Match: *`); never multipart, which has
  no such condition everywhere. The body is signed by its SHA-256, so the service takes no damaged body.
* One call is one attempt: obstore's own retries are off, so that `RetryingStore` counts them and knows when an
  answer was lost.
* An answer is compared with the length that was asked for and with the size that the service tells. A whole
  object is asked for as a range, since only the answer to a range tells the whole size beside the length of the
  body. What does not fit is UnavailableError: the answer is bad, not the object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from lightmill.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError
from lightmill.storage.address import RemoteAddress
from lightmill.storage.port import BlobStore, check_name, check_prefix, check_range, too_short
from lightmill.storage.requests import RequestMeter, StoreRequests
from lightmill.storage.translation import CONFLICT, RangeError, opening, status_of, translated

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ObjectStore
    from typing_extensions import Buffer

PAGE_NAMES = 1000
"""The most names that services put on one page of a listing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long one attempt may take, in seconds."""

    # Until there is a connection.
    connect_s: float = 5.0
    # Without any byte of the answer; sending the request counts, so 64 MiB need 1.1 MB/s.
    stall_s: float = 60.0
    # All in all.
    total_s: float = 300.0


class RemoteStore(BlobStore):
    """Keeps each object in an object of the same name below a prefix of a bucket.

    Args:
        store: obstore's client, with its retries off.
        address: Where it is, for `url` and for messages.
        meter: Counts requests and bytes.
    """

    def __init__(self, store: ObjectStore, address: RemoteAddress, meter: RequestMeter | None = None) -> None:
        self._store = store
        self._address = address
        self._meter = meter or RequestMeter()

    def __repr__(self) -> str:
        return f"RemoteStore({self.url!r})"

    @property
    def url(self) -> str:
        """The address, without any secret."""
        return self._address.url

    @property
    def requests(self) -> StoreRequests:
        """What was sent and received so far."""
        return self._meter.snapshot()

    def create(self, name: str, data: Buffer) -> None:
        """Make an object; see the port."""
        check_name(name)
        view = memoryview(data)
        body = view.cast("B") if view.nbytes else memoryview(b"")
        self._meter.sent("create", view.nbytes)
        try:
            with translated(self._address, name):
                obstore.put(self._store, name, body, mode="create", use_multipart=False)
        except ConflictError as exc:
            # S3 answers 409 also while another conditional put of the name is under way, and then nobody may win.
            if status_of(exc.__cause__) == CONFLICT and not self._exists(name):
                raise UnavailableError(
                    f"The store at {self.url} was making {name} for somebody else; try again"
                ) from exc
            raise

    def get(self, name: str) -> bytes:
        """Return the whole object; see the port."""
        check_name(name)
        self._meter.sent("get")
        try:
            with translated(self._address, name):
                result = obstore.get(self._store, name, options={"range": {"offset": 0}})
                chunks = list(result.stream(min_chunk_size=0))
        except RangeError:  # no range fits into an empty object
            return self._empty(name)
        found, expected = sum(map(len, chunks)), result.meta["size"]
        self._meter.received(found)
        if found != expected or tuple(result.range) != (0, expected):
            raise self._wrong_length(name, found, expected)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return a part of the object; see the port."""
        check_range(offset, length)
        result = self._open_range(name, offset, length)
        if result is None:
            return b""
        part = bytearray(length)  # the service has told that there are so many
        self._fill(name, result, memoryview(part))
        return bytes(part)

    def get_view(self, name: str, offset: int, length: int) -> memoryview:
        """Return a part of the object in the client's own memory; see the port."""
        check_range(offset, length)
        result = self._open_range(name, offset, length)
        if result is None:
            return memoryview(b"")
        with translated(self._address, name):
            part = memoryview(result.bytes())
        self._meter.received(part.nbytes)
        if part.nbytes != length:
            raise self._wrong_length(name, part.nbytes, length)
        return part

    def read_into(self, name: str, offset: int, out: memoryview) -> None:
        """Fill a buffer, piece by piece as the answer arrives; see the port."""
        check_range(offset, out.nbytes)
        result = self._open_range(name, offset, out.nbytes)
        if result is not None:
            self._fill(name, result, out.cast("B"))

    def head(self, name: str) -> int:
        """Return the size; see the port."""
        check_name(name)
        self._meter.sent("head")
        with translated(self._address, name):
            return obstore.head(self._store, name)["size"]

    def list(self, prefix: str) -> Iterator[str]:
        """Yield names; see the port.

        All names of the folder are in memory at once, since not every service sorts them as the port does.
        """
        check_prefix(prefix)
        return self._list(prefix)

    def delete(self, name: str) -> None:
        """Remove the object; see the port."""
        check_name(name)
        self._meter.sent("delete")
        try:
            with translated(self._address, name):
                obstore.delete(self._store, name)
        except NotFoundError:
            return

    def _list(self, prefix: str) -> Iterator[str]:
        folder = prefix.rpartition("/")[0]
        found, after = self._pages(folder, None), None
        names = set(found)
        while found and len(found) % PAGE_NAMES == 0 and found[-1] != after:
            # A full last page: an answer that lost its "there is more" looks just like this.
            after = found[-1]
            found = self._pages(folder, after)
            names.update(found)
        return iter(sorted(name for name in names if name.startswith(prefix)))

    def _pages(self, folder: str, after: str | None) -> list[str]:
        names: list[str] = []
        with translated(self._address, f"{folder}/"):
            stream = obstore.list(self._store, folder or None, offset=after, chunk_size=PAGE_NAMES)
            self._meter.sent("list")
            for number, page in enumerate(stream):
                if number:
                    self._meter.sent("list")
                names += [entry["path"] for entry in page]
        return names

    def _open_range(self, name: str, offset: int, length: int) -> GetResult | None:
        """Ask for a range and check what the answer promises; None for an empty range that exists."""
        check_name(name)
        if not length:
            if self.head(name) < offset:
                raise too_short(name, offset, length)
            return None
        self._meter.sent("get_range")
        try:
            with translated(self._address, name):
                result = obstore.get(self._store, name, options={"range": (offset, offset + length)})
        except RangeError:
            raise self._beyond(name, offset, length) from None
        if tuple(result.range) != (offset, offset + length):
            if result.meta["size"] < offset + length:
                raise too_short(name, offset, length)
            raise self._wrong_length(name, result.range[1] - result.range[0], length)
        return result

    def _fill(self, name: str, result: GetResult, out: memoryview) -> None:
        done = 0
        with translated(self._address, name):
            for chunk in result.stream(min_chunk_size=0):
                end = done + len(chunk)
                if end <= out.nbytes:
                    out[done:end] = chunk
                done = end
        self._meter.received(done)
        if done != out.nbytes:
            raise self._wrong_length(name, done, out.nbytes)

    def _exists(self, name: str) -> bool:
        try:
            self.head(name)
        except NotFoundError:
            return False
        return True

    def _empty(self, name: str) -> bytes:
        size = self.head(name)
        if size:
            raise self._wrong_length(name, 0, size)
        return b""

    def _beyond(self, name: str, offset: int, length: int) -> UnavailableError | IntegrityError:
        size = self.head(name)
        if size < offset + length:
            return too_short(name, offset, length)
        return self._wrong_length(name, 0, length)

    def _wrong_length(self, name: str, found: int, expected: int) -> UnavailableError:
        return UnavailableError(
            f"The store at {self.url} gave {found} bytes of {name} where it owes {expected}; the answer was cut or "
            "changed on its way. Try again"
        )


def open_remote(
    address: RemoteAddress, timeouts: Timeouts | None = None, meter: RequestMeter | None = None
) -> RemoteStore:
    """Return the store at an address, without retries; no request is sent yet.

    The credentials come from the environment, where obstore looks for them (see `CREDENTIALS`).

    Raises:
        RequestError: When a variable of the environment is malformed or names a file that is not there.
    """
    limits = timeouts or Timeouts()
    client: Any = {
        "timeout": timedelta(seconds=limits.total_s),
        "connect_timeout": timedelta(seconds=limits.connect_s),
        "read_timeout": timedelta(seconds=limits.stall_s),
        "allow_http": address.endpoint.startswith("http://"),
    }
    retry: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=limits.total_s)}
    opener = {"s3": _open_s3, "gs": _open_gs, "az": _open_az}[address.scheme]
    with opening(address):
        store = opener(address, client, retry)
    return RemoteStore(store, address, meter)


def _open_s3(address: RemoteAddress, client: Any, retry: Any) -> ObjectStore:
    config: Any = {
        "virtual_hosted_style_request": address.addressing == "virtual",
        # Said here, so that no variable of the environment can take them away.
        "conditional_put": "etag",
        "unsigned_payload": False,
        "disable_bulk_delete": True,  # many services lack it, and we delete one by one
    }
    if address.region:
        config["region"] = address.region
    if address.endpoint:
        endpoint = address.endpoint
        if address.addressing == "virtual":
            endpoint = endpoint.replace("://", f"://{address.bucket}.", 1)
        config["endpoint"] = config["aws_endpoint_url_s3"] = endpoint
    return S3Store(
        address.bucket, prefix=address.prefix or None, config=config, client_options=client, retry_config=retry
    )


def _open_gs(address: RemoteAddress, client: Any, retry: Any) -> ObjectStore:
    config: Any = {"base_url": address.endpoint} if address.endpoint else {}
    return GCSStore(
        address.bucket, prefix=address.prefix or None, config=config, client_options=client, retry_config=retry
    )


def _open_az(address: RemoteAddress, client: Any, retry: Any) -> ObjectStore:
    config: Any = {}
    if address.account:
        config["account_name"] = address.account
    if address.endpoint:
        config["endpoint"] = address.endpoint
    return AzureStore(
        address.bucket, prefix=address.prefix or None, config=config, client_options=client, retry_config=retry
    )
