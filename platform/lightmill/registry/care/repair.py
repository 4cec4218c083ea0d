"""Repair: puts back what somebody still has; never invents, and says what is lost.

Bytes come from quarantine or from copies of the same store. Each is put back only when it proves to be what
was there: a blob by its digest, a record by its signature, place and chain, an envelope by opening.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from lightmill.errors import ConflictError, IntegrityError, NotFoundError, RequestError
from lightmill.records.care import Finding, Repair, RepairReport
from lightmill.records.jobs import Progress
from lightmill.registry import names
from lightmill.registry.care.check import Options, check
from lightmill.registry.care.digests import digest_of, is_whole
from lightmill.registry.care.ledger import Ledger
from lightmill.registry.care.logs import is_record, part_of, read_entry
from lightmill.registry.care.parallel import THREADS
from lightmill.registry.care.rollback import Watermarks
from lightmill.registry.opening import read_store_id
from lightmill.storage import BlobStore
from lightmill.vault import KeyRing, open_envelope


def repair(
    store: BlobStore,
    keyring: KeyRing,
    sources: Sequence[BlobStore] = (),
    *,
    marks: Watermarks | None = None,
    threads: int = THREADS,
    report: Callable[[Progress], None] = lambda _: None,
) -> RepairReport:
    """Check a store at the keyed level and put back what can be, until a check finds nothing more to do.

    Args:
        store: What to repair; its `lightmill.json` must be whole, or come back from a source first.
        keyring: Opens envelopes and verifies signatures.
        sources: Replicas or backups of the same store, asked in this order after the quarantine.
        marks: What the catalog remembers, so that records that were rolled back are looked for too.
        threads: How many objects are read at once.
        report: Whom to tell how far it is.

    Raises:
        RequestError: A source is another store.
        UnavailableError: A store does not answer, or is full; run it again.
    """
    _store_file(store, sources)
    work = _Repair(store, keyring, sources)
    options = Options(keyring=keyring, marks=marks, threads=threads, report=report)
    repaired: dict[str, Repair] = {}
    while True:
        harmful = check(store, keyring.trusted, options).harmful
        done = [found for finding in harmful if finding.object not in repaired for found in work.one(finding)]
        repaired |= {found.object: found for found in done}
        if not done:
            return RepairReport(repaired=tuple(repaired[name] for name in sorted(repaired)), lost=harmful)


def _store_file(store: BlobStore, sources: Sequence[BlobStore]) -> None:
    """Compare the ids of all stores; give a store its file back from the first source.

    Raises:
        RequestError: A source is another store.
    """
    ids = {read_store_id(source): source for source in reversed(sources)}
    try:
        ids[read_store_id(store)] = store
    except (NotFoundError, IntegrityError):
        if not sources:
            raise
        _replace(store, names.STORE_FILE, sources[0].get(names.STORE_FILE))
        ids[read_store_id(store)] = store
    if len(ids) > 1:
        raise RequestError(
            f"A source is another store than {store.url}: found the ids {', '.join(sorted(ids))}. Name copies of this "
            "store only."
        )


class _Repair:
    def __init__(self, store: BlobStore, keyring: KeyRing, sources: Sequence[BlobStore]) -> None:
        self._store = store
        self._keyring = keyring
        self._sources = sources
        self._store_id = read_store_id(store)

    def one(self, finding: Finding) -> list[Repair]:
        """Put an object back from the first place that holds it whole."""
        for name, source, data in self._offers(finding):
            if self._is_right(name, data):
                _replace(self._store, name, data)
                return [Repair(object=name, source=source)]
        return []

    def _offers(self, finding: Finding) -> Iterator[tuple[str, str, bytes]]:
        """Yield (name, where from, bytes) of what may be the object."""
        name = finding.object
        if digest_of(name):
            with suppress(NotFoundError):
                yield name, "quarantine", self._store.get(names.quarantine_name(name))
        for source in self._sources:
            with suppress(NotFoundError):
                yield name, source.url, source.get(name)
            if part_of(name) == "e":  # after a rotation a copy may hold another number of it
                for other in sorted(source.list(name.rpartition("/")[0] + "/"), reverse=True):
                    if other != name and other not in set(self._store.list(other)):
                        yield other, source.url, source.get(other)

    def _is_right(self, name: str, data: bytes) -> bool:
        if digest_of(name):
            return is_whole(name, data)
        try:
            if part_of(name) == "e":
                return self._opens(name, data)
            return is_record(name) and self._is_signed(name, data)
        except IntegrityError:
            return False

    def _opens(self, name: str, data: bytes) -> bool:
        _, mid, _, seq, rot = name.split("/")
        ledger = Ledger(self._store, self._keyring.trusted, self._store_id)
        ledger.read(names.record_name(mid, int(seq)))
        version = ledger.versions.get((mid, int(seq)))
        if version is None or version.problem:
            return False  # its record comes back first
        record = version.record
        context = {"store": record.store, "workspace": record.workspace, "mid": mid, "seq": str(int(seq))}
        open_envelope(data, self._keyring.provider, context, rot=int(rot), name=name)
        return True

    def _is_signed(self, name: str, data: bytes) -> bool:
        """Whether these bytes are a trusted record of this place, and the next entry of its log names them."""
        read_entry(data, name, self._keyring.trusted, self._store_id)
        after = f"{name.rpartition('/')[0]}/{names.last_number(name) + 1:010d}"
        try:
            following = read_entry(self._store.get(after), after, self._keyring.trusted, self._store_id)
        except (NotFoundError, IntegrityError):
            return True  # there is none, or it comes back itself and is then compared with this one
        return part_of(name) == "t" or following.get("parent") == hashlib.sha256(data).hexdigest()


def _replace(store: BlobStore, name: str, data: bytes) -> None:
    """Put right bytes where wrong ones or none are; stopped in between, another repair does it again."""
    with suppress(NotFoundError):
        if store.get(name) == data:
            return
        store.delete(name)
    with suppress(ConflictError):
        store.create(name, data)
