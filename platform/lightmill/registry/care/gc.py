"""Collection: removes what no version needs, without a key and without a lock.

A cycle lists objects, then leases, then records: what is committed meanwhile is seen as needed. It writes
its mark before it removes anything. What goes is copied to quarantine first; records and leases are listed
again right before the deletion and once more after it, and what a version turned out to need comes back
at once. docs/operations.md says what that promises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress

from lightmill.errors import ConflictError, IntegrityError, NotFoundError
from lightmill.records.base import now_iso
from lightmill.records.care import CollectReport
from lightmill.records.jobs import Progress
from lightmill.registry import names
from lightmill.registry.care.digests import is_whole
from lightmill.registry.care.ledger import Ledger
from lightmill.registry.care.marks import Decision, Mark, Sight, decide
from lightmill.registry.care.parallel import THREADS, each
from lightmill.registry.care.quarantine import from_quarantine, to_quarantine
from lightmill.registry.opening import read_store_id
from lightmill.registry.signed import read_record
from lightmill.storage import BlobStore
from lightmill.vault import canonical_json, parse_json

BATCH = 1000
MARK_MAX_BYTES = 1 << 30
LEASE_MAX_BYTES = 1 << 16
MARKS_KEPT = 3
COLLECTED = ("b/", "m/", "probe/")


class Collector:
    """Collects one store.

    Args:
        store: What to collect.
        trusted: The allow-list of publishers, for tombstones.
        pinned: Digests of commit records that are needed even when deleted, such as those that endpoints serve.
        clock: The time, as records write it.
        threads: How many objects are read or deleted at once.
        report: Whom to tell how far it is.
    """

    def __init__(
        self,
        store: BlobStore,
        trusted: Mapping[str, bytes],
        *,
        pinned: frozenset[str] = frozenset(),
        clock: Callable[[], str] = now_iso,
        threads: int = THREADS,
        report: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._ledger = Ledger(store, trusted, read_store_id(store), threads=threads)
        self._pinned = pinned
        self._clock = clock
        self._threads = threads
        self._report = report

    def collect(self, *, apply: bool) -> CollectReport:
        """Run one cycle; without `apply` only look, and write nothing.

        Raises:
            IntegrityError: A commit record is missing or damaged, so that nobody knows what it needs: nothing is
                removed until it is repaired.
            ConflictError: Another collector wrote its mark at the same moment.
            UnavailableError: The store does not answer, or the clocks of collectors differ. Run it again.
        """
        previous = self._last_mark()
        present = {name for prefix in COLLECTED for name in self._store.list(prefix)}
        leases = self._leases()
        renewals = self._renewals()
        quarantine = frozenset(self._quarantined())
        needed = self._needed()
        sight = Sight(
            now=self._clock(),
            garbage=self._garbage(present - needed),
            leases=leases,
            quarantine=quarantine - needed,
            renewals=renewals,
        )
        decision = decide(previous, sight)
        back = sorted((quarantine & needed) - present)
        removed: list[str] = list(decision.remove)
        removed_bytes = 0
        if apply:
            self._write(decision.mark)
            back = self._restore(back)
            removed, removed_bytes, more = self._remove(decision.remove)
            back += more
            self._finish(decision, quarantine & needed, renewals.keys() - leases.keys())
        return CollectReport(
            applied=apply,
            mark=decision.mark.n,
            live=len(needed),
            garbage=len(sight.garbage),
            young=len(decision.young),
            leased=len(decision.leased),
            waiting=len(decision.waiting),
            removed=tuple(removed),
            removed_bytes=removed_bytes if apply else sum(map(self._size, removed)),
            restored=tuple(back),
            purged=decision.purge,
            expired=decision.expire,
            quarantined=len(decision.mark.quarantine),
        )

    # -- looking --------------------------------------------------------------

    def _last_mark(self) -> Mark | None:
        last = max(self._store.list(names.MARKS), default=None)
        if last is None:
            return None
        n = names.last_number(last)
        with suppress(IntegrityError):
            mark = read_record(Mark, self._store.get(last), MARK_MAX_BYTES, last)
            if mark.n == n:
                return mark
        return Mark(n=n, created=self._clock())  # a damaged mark is worth nothing: every age begins anew

    def _leases(self) -> dict[str, str | None]:
        """Return the leases on the store with their assets; one that is gone by now is left out."""
        found: dict[str, str | None] = {}
        for name in self._store.list(names.LEASES):
            try:
                asset = parse_json(self._store.get(name), LEASE_MAX_BYTES, name=name).get("mid")
            except NotFoundError:
                continue
            except IntegrityError:
                asset = None
            found[name[len(names.LEASES) :]] = asset if isinstance(asset, str) else None
        return found

    def _renewals(self) -> dict[str, int]:
        """Return how often each lease was renewed."""
        return Counter(name.split("/")[1] for name in self._store.list(names.RENEWALS))

    def _quarantined(self) -> Iterable[str]:
        return (name[len(names.QUARANTINE) :] for name in self._store.list(names.QUARANTINE))

    def _needed(self) -> set[str]:
        """List the records again and return the names of all objects that versions need.

        Raises:
            IntegrityError: A commit record is missing or damaged.
        """
        self._ledger.refresh()
        alive = self._ledger.alive(self._pinned)
        unclear = [version.name for version in alive if version.problem]
        unclear += [finding.object for finding in self._ledger.gaps()]
        unclear += [name for name in self._ledger.findings if "/v/" in name and name not in unclear]
        deleted = {version.name for version in self._ledger.versions.values() if self._ledger.deleted(version)}
        unclear = [name for name in unclear if name not in deleted]
        if unclear:
            raise IntegrityError(
                f"{len(unclear)} commit records of {self._store.url} are missing, damaged or signed by nobody "
                f"trusted ({', '.join(sorted(unclear)[:3])}), so what they need is not known. Nothing was removed. "
                "Repair them with `lightmill registry repair --from BACKUP`, or delete those versions."
            )
        return {name for version in alive for name, _ in version.needs()}

    def _garbage(self, unneeded: set[str]) -> dict[str, frozenset[str]]:
        """Return unneeded objects with the assets whose deleted versions name them."""
        assets: dict[str, set[str]] = {name: set() for name in unneeded}
        for version in self._ledger.versions.values():
            for name, _ in version.needs():
                if name in assets:
                    assets[name].add(version.mid)
        return {name: frozenset(found) for name, found in assets.items()}

    def _in_place(self, name: str) -> bool:
        try:
            return is_whole(name, self._store.get(name))
        except NotFoundError:
            return False

    def _size(self, name: str) -> int:
        try:
            return self._store.head(name)
        except NotFoundError:
            return 0

    # -- doing ----------------------------------------------------------------

    def _write(self, mark: Mark) -> None:
        try:
            self._store.create(names.mark_name(mark.n), canonical_json(mark.model_dump(mode="json")))
        except ConflictError as exc:
            raise ConflictError(
                f"Another collection of {self._store.url} wrote mark {mark.n} at the same moment; this one removed "
                "nothing. Let one collector run at a time."
            ) from exc

    def _remove(self, due: tuple[str, ...]) -> tuple[list[str], int, list[str]]:
        """Quarantine and delete; return what went, its bytes, and what came back at once."""
        removed: list[str] = []
        back: list[str] = []
        size = 0
        for start in range(0, len(due), BATCH):
            batch = due[start : start + BATCH]
            sizes = dict(zip(batch, each(self._quarantine, batch, self._threads), strict=True))
            needed = self._needed_or_leased(batch)
            gone = [name for name in batch if name not in needed]
            for _ in each(self._store.delete, gone, self._threads):
                pass
            rescued = self._restore([name for name in gone if name in self._needed()])
            back += rescued
            removed += [name for name in gone if name not in rescued]
            size += sum(sizes[name] for name in gone if name not in rescued)
            self._report(Progress(phase="collect", done=start + len(batch), total=len(due), unit="objects"))
        return removed, size, back

    def _needed_or_leased(self, batch: Iterable[str]) -> set[str]:
        """List leases and records again; return what of a batch may be needed by now.

        A lease that came meanwhile may reuse what its asset's deleted versions name; it has written nothing yet
        of what this batch holds, since all of that is a day old.
        """
        assets = set(self._leases().values())
        needed = self._needed()
        garbage = self._garbage({name for name in batch if name not in needed})
        return needed | {name for name, of in garbage.items() if of and (None in assets or of & assets)}

    def _quarantine(self, name: str) -> int:
        return to_quarantine(self._store, name)

    def _restore(self, wanted: Iterable[str]) -> list[str]:
        return [name for name in wanted if from_quarantine(self._store, name)]

    def _finish(self, decision: Decision, needed: frozenset[str], released: Set[str]) -> None:
        """Drop leases, old quarantine, copies of what is needed and in place, and old marks."""
        for id in decision.expire:
            self._store.delete(names.lease_name(id))
        for id in {*decision.expire, *released}:
            for name in list(self._store.list(names.renewals_prefix(id))):
                self._store.delete(name)
        still = self._needed()
        for name in decision.purge:
            if name in still:
                from_quarantine(self._store, name)
            else:
                self._store.delete(names.quarantine_name(name))
        for name in needed:
            if self._in_place(name):
                self._store.delete(names.quarantine_name(name))
        for mark in sorted(self._store.list(names.MARKS))[:-MARKS_KEPT]:
            self._store.delete(mark)
