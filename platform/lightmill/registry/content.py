"""Reading sealed bytes back, in parallel, straight into their destination.

The loader exposes nothing until every segment that it needs has verified; on any failure it wipes every
destination first, since AES-GCM leaves unauthenticated plaintext behind. Besides the destination a thread needs
one buffer for ciphertext: a segment (1 MiB) when reading from files, a request (8 MiB) when reading from a remote
store, and a segment of plaintext where a destination takes only a part of one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from lightmill.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError
from lightmill.records.assets import BlobEntry
from lightmill.registry.names import blob_name
from lightmill.registry.planning import BlobPlan, Cut, Run, Target, plan_blobs
from lightmill.registry.sources import BlobSource, open_source
from lightmill.registry.workers import Gauge, Progress, cpu_threads, run_jobs
from lightmill.storage import BlobStore, LocalStore
from lightmill.vault import HEADER_BYTES, BlobContext, BlobReader

__all__ = ["Target", "key_bytes", "load_targets", "open_reader", "put_if_absent"]

REMOTE_THREADS_PER_CPU = 2
_ZEROS = bytes(1 << 20)


def load_threads(store: BlobStore) -> int:
    """Return how many threads read from a store by default: one a CPU, two where each waits for the network."""
    return cpu_threads() * (1 if isinstance(store, LocalStore) else REMOTE_THREADS_PER_CPU)


def put_if_absent(store: BlobStore, name: str, data: bytes | bytearray | memoryview) -> None:
    """Create an object whose name is the digest of its bytes; one that exists already is the same."""
    try:
        store.create(name, data)
    except ConflictError:
        return


def load_targets(
    store: BlobStore,
    context: BlobContext,
    blobs: Mapping[str, BlobEntry],
    targets: Sequence[Target],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Fill every target, reading and decrypting on several threads; see the module for the memory it takes.

    Raises:
        IntegrityError: An object is missing, damaged or not the one that was written. Every destination is
            zeroed.
        UnavailableError: The store does not answer. Every destination is zeroed.
    """
    gauge = Gauge(sum(target.out.nbytes for target in targets), progress)
    threads = threads or load_threads(store)
    opened: list[_Blob] = []
    try:
        try:
            jobs = _jobs(store, context, plan_blobs(blobs, targets), threads, opened)
            run_jobs(threads, jobs, lambda: partial(_work, buffer=_Buffer(), gauge=gauge))
        finally:
            for blob in opened:
                blob.close()
    except BaseException:
        for target in targets:
            wipe(target.out)
        raise


def wipe(out: memoryview) -> None:
    """Fill a destination with zeros."""
    for start in range(0, out.nbytes, len(_ZEROS)):
        part = out[start : start + len(_ZEROS)]
        part[:] = _ZEROS[: part.nbytes]


def _jobs(
    store: BlobStore, context: BlobContext, plans: Iterator[BlobPlan], threads: int, opened: list[_Blob]
) -> Iterator[tuple[_Blob, Run]]:
    """Yield the first run of each blob early, so that a blob is open when the others of its runs are due."""
    ahead: deque[_Blob] = deque()
    for plan in plans:
        blob = _Blob(store, context, plan)
        opened.append(blob)
        ahead.append(blob)
        yield blob, plan.runs[0]
        if len(ahead) == threads:
            yield from _later_runs(ahead.popleft())
    while ahead:
        yield from _later_runs(ahead.popleft())


def _later_runs(blob: _Blob) -> Iterator[tuple[_Blob, Run]]:
    return ((blob, run) for run in blob.plan.runs[1:])


class _Buffer:
    """Memory that one thread uses again and again; it grows to what the largest piece needs."""

    def __init__(self) -> None:
        self._memory = bytearray()
        self._plain = bytearray()

    def room(self, length: int) -> memoryview:
        """Return room for ciphertext; what it held before is lost."""
        if len(self._memory) < length:
            self._memory = bytearray(length)
        return memoryview(self._memory)[:length]

    def plain(self, length: int) -> memoryview:
        """Return room for the plaintext of one segment."""
        if len(self._plain) < length:
            self._plain = bytearray(length)
        return memoryview(self._plain)[:length]


class _Blob:
    """One blob while it is loaded: its source, opened by its first run, and its reader."""

    def __init__(self, store: BlobStore, context: BlobContext, plan: BlobPlan) -> None:
        self.plan = plan
        self._store = store
        self._context = context
        self._key = key_bytes(plan.entry)
        self._left = len(plan.runs)
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._retired: list[BlobSource] = []
        self._source: BlobSource | None = None
        self._reader: BlobReader | None = None

    def open(self) -> BlobSource:
        """Open the source; the size must be the one that the manifest promises."""
        plan = self.plan
        source = open_source(self._store, plan.name, plan.entry.size, plan.read_bytes)
        self._source = source
        while source.size != plan.entry.size:
            problem = IntegrityError(
                f"Object {plan.name} has {source.size} bytes where its version says {plan.entry.size}; it was "
                "truncated or replaced. Restore it from a backup."
            )
            source = self.renew(source, problem)
        return source

    def use_header(self, header: memoryview) -> BlobReader:
        """Check the header and let the other runs begin."""
        plan = self.plan
        reader = BlobReader.parse(header, self._key, self._context, plan.entry.size, plan.entry.length, name=plan.name)
        if plan.segments > 1 and reader.segment_bytes != plan.segment_bytes:
            raise IntegrityError(f"Object {plan.name} has other segments than its version says; it was replaced.")
        self._reader = reader
        self._ready.set()
        return reader

    def wait(self) -> tuple[BlobSource, BlobReader]:
        """Return source and reader once the first run has opened them; raises what the first run met."""
        self._ready.wait()
        with self._lock:
            if self._source and self._reader and not self._failure:
                return self._source, self._reader
            raise self._failure or UnavailableError(f"Object {self.plan.name} was not opened; try again.")

    def fail(self, problem: BaseException) -> None:
        """Let the runs that wait for this blob end too."""
        self._failure = problem
        self._ready.set()

    def renew(self, source: BlobSource, problem: IntegrityError) -> BlobSource:
        """Return another copy's source after `source` turned out damaged; raises `problem` if there is none."""
        with self._lock:
            if source is not self._source and self._source:
                return self._source
            fresh = source.renew()
            if fresh is None:
                raise problem
            self._retired.append(source)
            self._source = fresh
            return fresh

    def done(self) -> None:
        """Count a run; after the last one the source is closed."""
        with self._lock:
            self._left -= 1
            last = not self._left
        if last:
            self.close()

    def close(self) -> None:
        """Close all sources; nobody reads any more."""
        for source in (*self._retired, *([self._source] if self._source else [])):
            source.close()


def _work(job: tuple[_Blob, Run], buffer: _Buffer, gauge: Gauge) -> None:
    blob, run = job
    if run is blob.plan.runs[0]:
        try:
            source = blob.open()
            _repeat(blob, source, partial(_first, blob, run, buffer))
        except BaseException as exc:
            blob.fail(exc)
            raise
    else:
        source, reader = blob.wait()
        _repeat(blob, source, partial(_fill, reader, run, buffer, None))
    blob.done()
    gauge.add(sum(out.nbytes for cut in run.cuts for _, out in cut.outs))


def _repeat(blob: _Blob, source: BlobSource, read: Callable[[BlobSource], None]) -> None:
    """Read; if the bytes are not what was written, read once more from each other copy that there is."""
    while True:
        try:
            read(source)
        except IntegrityError as exc:
            source = blob.renew(source, exc)
        else:
            return


def _first(blob: _Blob, run: Run, buffer: _Buffer, source: BlobSource) -> None:
    """Read the header and the segments that follow it, in one request unless the source is a file."""
    view = source.view(0, HEADER_BYTES if source.piecemeal else run.length, buffer.room)
    reader = blob.use_header(view[:HEADER_BYTES])
    _fill(reader, run, buffer, None if source.piecemeal else view, source)


def _fill(reader: BlobReader, run: Run, buffer: _Buffer, have: memoryview | None, source: BlobSource) -> None:
    """Decrypt a run's segments; `have` is the run if it has been read already."""
    if source.piecemeal:
        for cut in run.cuts:
            _decrypt(reader, cut, source.view(cut.offset, cut.length, buffer.room), buffer)
        return
    view = source.view(run.offset, run.length, buffer.room) if have is None else have
    for cut in run.cuts:
        start = cut.offset - run.offset
        _decrypt(reader, cut, view[start : start + cut.length], buffer)


def _decrypt(reader: BlobReader, cut: Cut, ciphertext: memoryview, buffer: _Buffer) -> None:
    within, out = cut.outs[0]
    length = reader.segment_plaintext_bytes(cut.index)
    if len(cut.outs) == 1 and within == 0 and out.nbytes == length:
        reader.decrypt_into(cut.index, ciphertext, out)
        return
    plaintext = buffer.plain(length)
    reader.decrypt_into(cut.index, ciphertext, plaintext)
    for start, part in cut.outs:
        part[:] = plaintext[start : start + part.nbytes]


def key_bytes(entry: BlobEntry) -> bytes:
    """Return a blob's key; IntegrityError, which does not quote it, if it is none."""
    try:
        return bytes.fromhex(entry.key)
    except ValueError:
        raise IntegrityError(f"The manifest holds no key for object {blob_name(entry.id)}.") from None


def open_reader(
    store: BlobStore, name: str, size: int, length: int | None, key: bytes, context: BlobContext
) -> BlobReader:
    """Check an object's size and header and return its reader.

    Raises:
        IntegrityError: It is missing, has another size, or its header does not verify.
    """
    try:
        found = store.head(name)
        header = store.get_range(name, 0, HEADER_BYTES) if found >= HEADER_BYTES else b""
    except NotFoundError as exc:
        raise IntegrityError(f"Object {name} is missing from {store.url}; restore it from a backup.") from exc
    if found != size:
        raise IntegrityError(
            f"Object {name} has {found} bytes where its version says {size}; it was truncated or replaced. "
            "Restore it from a backup."
        )
    return BlobReader.parse(header, key, context, found, length, name=name)
