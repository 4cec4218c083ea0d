"""Backup: an incremental copy to another store, consistent while publishing goes on.

Records are listed first and copied last, so whatever the copy names it holds, at every moment: a backup that
was killed is a smaller store, and the next run goes on. The copy is a store that opens with the same key
ring; it carries the wrapped keys. It never holds leases, marks, quarantine or unfinished files.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from lightmill.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError
from lightmill.records.care import BackupReport, Finding, Problem
from lightmill.records.jobs import Progress
from lightmill.registry import names
from lightmill.registry.care.digests import is_whole
from lightmill.registry.care.ledger import Ledger, Version
from lightmill.registry.care.logs import envelopes_of, needed_by, part_of, read_entry
from lightmill.registry.care.parallel import THREADS, each
from lightmill.registry.opening import read_store_id
from lightmill.storage import BlobStore


@dataclass(slots=True, kw_only=True)
class _Count:
    copied: int = 0
    copied_bytes: int = 0
    present: int = 0
    verified: int = 0
    replaced: int = 0
    findings: list[Finding] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *, copied: int | None = None, present: int = 0, verified: int = 0, replaced: int = 0) -> None:
        """Count from any thread; `copied` is the size of an object that was copied."""
        with self.lock:
            if copied is not None:
                self.copied += 1
                self.copied_bytes += copied
            self.present += present
            self.verified += verified
            self.replaced += replaced


def backup(
    source: BlobStore,
    target: BlobStore,
    trusted: Mapping[str, bytes],
    *,
    verify_all: bool = False,
    filling: bool = False,
    threads: int = THREADS,
    report: Callable[[Progress], None] = lambda _: None,
) -> BackupReport:
    """Copy to `target` what it lacks, and read back every object that was copied.

    Args:
        source: The store to copy; it may be written to meanwhile.
        target: An empty store, or an earlier copy of the same one.
        trusted: The allow-list of publishers: what nobody trusted signed is not copied.
        verify_all: Read everything in the copy, also what was there before, and write again what is damaged.
        filling: The target is a site to be restored: it may hold newer versions, which stay.
        threads: How many objects are copied at once, each whole in memory (at most about 64 MiB).
        report: Whom to tell how far it is.

    Raises:
        ConflictError: The target holds something else than a copy of this store.
        IntegrityError: Source and target differ in their history: one was rolled back or rewritten.
        UnavailableError: A store does not answer or is full. Run it again: it goes on where it stopped.
    """
    copy = _Copy(source, target, trusted, threads=threads, report=report)
    try:
        return copy.run(verify_all=verify_all, filling=filling)
    except UnavailableError as exc:
        raise UnavailableError(
            f"{exc.message} ({copy.count.copied} objects were copied; run it again and it goes on from there)"
        ) from exc


class _Copy:
    def __init__(
        self,
        source: BlobStore,
        target: BlobStore,
        trusted: Mapping[str, bytes],
        *,
        threads: int,
        report: Callable[[Progress], None],
    ) -> None:
        self._source = source
        self._target = target
        self._trusted = trusted
        self._threads = threads
        self._report = report
        self._ledger = Ledger(source, trusted, read_store_id(source), threads=threads)
        self.count = _Count()

    def run(self, *, verify_all: bool, filling: bool) -> BackupReport:
        self._report(Progress(phase="list", unit="objects"))
        there = self._open_target()
        moves = [name for name in self._source.list(names.RECORDS) if part_of(name) in ("a", "k")]
        records = self._ledger.refresh()  # after the moves: what they point at is then among the versions
        versions = self._wanted(there)
        self._same_history(there, [*(name for name in records if part_of(name) == "v"), *moves], filling)
        self._objects(versions, there, verify_all)
        self._envelopes(versions, there, verify_all)
        self._tombstones(there, verify_all)
        self._records(there, verify_all)
        self._logs(moves, there, verify_all)
        count = self.count
        return BackupReport(
            source=self._source.url,
            target=self._target.url,
            store=self._ledger.store_id,
            versions=len(versions),
            deleted=len(self._ledger.versions) - len(versions),
            copied=count.copied,
            copied_bytes=count.copied_bytes,
            present=count.present,
            verified=count.verified,
            replaced=count.replaced,
            findings=tuple(sorted({f.object: f for f in count.findings}.values(), key=lambda f: (f.problem, f.object))),
        )

    # -- before anything is copied -------------------------------------------------

    def _open_target(self) -> set[str]:
        """Return what the target holds, after making an empty one a copy of this store.

        Raises:
            ConflictError: It holds something else.
        """
        there = {name for name in self._target.list("") if not name.startswith("probe/")}
        if not there:
            self._target.probe()
            with suppress(ConflictError):
                self._target.create(names.STORE_FILE, self._source.get(names.STORE_FILE))
        elif names.STORE_FILE not in there:
            raise ConflictError(
                f"{self._target.url} is not empty and no Lightmill store; nothing was written. Choose an empty place."
            )
        found = read_store_id(self._target)
        if found != self._ledger.store_id:
            raise ConflictError(
                f"{self._target.url} holds store {found}, not {self._ledger.store_id} of {self._source.url}; nothing "
                "was written. Choose an empty place, or the copy of this store."
            )
        return there

    def _wanted(self, there: set[str]) -> list[Version]:
        """Return the versions to copy whole: those that neither side knows as deleted."""
        alive = self._ledger.alive()
        if not any(part_of(name) == "t" for name in there):
            return alive
        other = Ledger(self._target, self._trusted, self._ledger.store_id, threads=self._threads)
        other.refresh()
        return [version for version in alive if not other.deleted(version)]

    def _same_history(self, there: set[str], entries: Iterable[str], filling: bool) -> None:
        """Compare the last entry that both sides have of every log, and what each has beyond it.

        Raises:
            IntegrityError: One side was rewritten, or the source has fewer entries than its own copy.
        """
        ours = _last_by_log(entries)
        for log, last in sorted(_last_by_log(n for n in there if part_of(n) in ("v", "a", "k")).items()):
            found = ours.get(log, 0)
            if found < last and not filling:
                raise IntegrityError(
                    f"{self._source.url} ends at {found} in {log}, but the copy at {self._target.url} has {last}; "
                    "the source was rolled back. Nothing was written; restore it first."
                )
            if found:
                self._same_entry(f"{log}{min(found, last):010d}")

    def _same_entry(self, name: str) -> None:
        """Compare one entry, and with it all before it, since they are chained; a damaged one is a finding."""
        sides = [(store, store.get(name)) for store in (self._source, self._target)]
        if sides[0][1] == sides[1][1]:
            return
        for store, data in sides:
            try:
                read_entry(data, name, self._trusted, self._ledger.store_id)
            except IntegrityError as exc:
                detail = f"at {store.url}: {exc.message}"
                self.count.findings.append(Finding(problem=Problem.DAMAGED, object=name, detail=detail))
                return
        raise IntegrityError(
            f"Object {name} at {self._source.url} is another than at {self._target.url}: one history was rewritten. "
            "Nothing was written; find out which one is right."
        )

    # -- copying ---------------------------------------------------------------------

    def _objects(self, versions: list[Version], there: set[str], verify_all: bool) -> None:
        needed = needed_by(versions)
        wanted = sorted(needed) if verify_all else sorted(set(needed) - there)
        self.count.present += len(set(needed) & there)
        gone: list[str] = []
        for done, (name, problem) in enumerate(
            each(lambda name: self._object(name, name in there), wanted, self._threads), start=1
        ):
            if problem is Problem.MISSING:
                gone.append(name)
            elif problem:
                self._note(problem, name, needed[name][1], "its bytes have another digest than its name")
            self._report(Progress(phase="copy", done=done, total=len(wanted), unit="objects"))
        if gone:  # deleted and collected since the records were listed, perhaps
            self._ledger.refresh()
            alive = set(map(str, self._ledger.alive()))
            for name in gone:
                users = [version for version in needed[name][1] if str(version) in alive]
                if users:
                    self._note(Problem.MISSING, name, users, "the source does not hold it")

    def _object(self, name: str, there: bool) -> tuple[str, Problem | None]:
        """Copy one object, or read the copy that is there; return what was wrong with the source."""
        if there and is_whole(name, self._target.get(name)):
            self.count.add(verified=1)
            return name, None
        try:
            data = self._source.get(name)
        except NotFoundError:
            return name, Problem.MISSING
        if not is_whole(name, data):
            return name, Problem.DAMAGED
        if there:
            self._target.delete(name)
            self.count.add(replaced=1)
        self._put(name, data)
        return name, None

    def _put(self, name: str, data: bytes) -> None:
        """Create an object and read it back.

        Raises:
            IntegrityError: The target returns other bytes than were written.
        """
        with suppress(ConflictError):
            self._target.create(name, data)
        if hashlib.sha256(self._target.get(name)).digest() != hashlib.sha256(data).digest():
            raise IntegrityError(
                f"Object {name} reads back from {self._target.url} as other bytes than were written; do not rely on "
                "this target. Check its disk or service, then use another one."
            )
        self.count.add(copied=len(data), verified=1)

    def _envelopes(self, versions: list[Version], there: set[str], verify_all: bool) -> None:
        listed = envelopes_of(self._source.list(names.RECORDS))

        def copy(version: Version) -> bool:
            found = listed.get((version.mid, version.seq), [])
            copied = sum(self._small(name, there, verify_all) for name in found)
            if found and copied == len(found):
                return True
            prefix = names.envelopes_prefix(version.mid, version.seq)  # one was rotated away meanwhile: look once more
            return sum(self._small(name, there, verify_all) for name in list(self._source.list(prefix))) > 0

        for version, found in zip(versions, each(copy, versions, self._threads), strict=True):
            if not found:
                name = names.envelope_name(version.mid, version.seq, 0)
                self._note(Problem.MISSING, name, (version,), "the source has no envelope for it")

    def _tombstones(self, there: set[str], verify_all: bool) -> None:
        """Copy what says that versions are deleted, before the records of versions that have no content."""
        for mid, seq in sorted(self._ledger.tombstones):
            self._small(names.tombstone_name(mid, seq), there, verify_all)

    def _records(self, there: set[str], verify_all: bool) -> None:
        """Copy the commit records of each asset in order, up to the first that does not hold."""
        for finding in [*self._ledger.findings.values(), *self._ledger.gaps()]:
            self.count.findings.append(finding)

        def chain(mid: str) -> None:
            for seq in range(1, self._ledger.last(mid) + 1):
                version = self._ledger.versions.get((mid, seq))
                if version is None or (version.problem and not self._ledger.deleted(version)):
                    return
                self._small(version.name, there, verify_all)

        for _ in each(chain, self._ledger.assets(), self._threads):
            pass

    def _logs(self, moves: Iterable[str], there: set[str], verify_all: bool) -> None:
        """Copy the entries of aliases and annotations in order, up to the first that nobody trusted signed."""
        logs: dict[str, list[str]] = {}
        for name in sorted(moves):
            logs.setdefault(name.rpartition("/")[0], []).append(name)

        def log(entries: list[str]) -> None:
            for name in entries:
                if name not in there and not self._holds(name):
                    return
                self._small(name, there, verify_all)

        for _ in each(log, [logs[key] for key in sorted(logs)], self._threads):
            pass

    def _holds(self, name: str) -> bool:
        try:
            read_entry(self._source.get(name), name, self._trusted, self._ledger.store_id)
        except IntegrityError as exc:
            finding = Finding(problem=Problem.DAMAGED, object=name, versions=(name.split("/")[1],), detail=exc.message)
            self.count.findings.append(finding)
            return False
        return True

    def _small(self, name: str, there: set[str], verify_all: bool) -> bool:
        """Copy a record or envelope; whether the source has it. An object that differs is a finding."""
        if name in there and not verify_all:
            self.count.add(present=1)
            return True
        try:
            data = self._source.get(name)
        except NotFoundError:
            return False
        if name not in there:
            self._put(name, data)
            return True
        self.count.add(present=1, verified=1)
        if self._target.get(name) != data:
            detail = "source and copy differ; check both, and repair the one that is damaged from the other"
            self.count.findings.append(Finding(problem=Problem.DAMAGED, object=name, detail=detail))
        return True

    def _note(self, problem: Problem, name: str, versions: Iterable[Version], detail: str) -> None:
        users = tuple(map(str, versions))
        self.count.findings.append(Finding(problem=problem, object=name, versions=users, detail=detail))


def _last_by_log(listed: Iterable[str]) -> dict[str, int]:
    """Return the highest number of each log (the folder of its entries) among names."""
    found: dict[str, int] = {}
    for name in listed:
        log, _, number = name.rpartition("/")
        if number.isdigit():
            found[f"{log}/"] = max(found.get(f"{log}/", 0), int(number))
    return found
