"""Check: finds what is missing, damaged or left over.

The keyless level needs the public keys of publishers only: signatures and chains of records, the presence and
size of every object, and that the SHA-256 of every blob is its name. The keyed level also opens envelopes
and manifests and verifies every segment; only it sees an envelope that was changed without breaking its form.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lightmill.errors import IntegrityError, NotFoundError, RequestError
from lightmill.records.assets import BlobEntry
from lightmill.records.care import CheckReport, Finding, Problem
from lightmill.records.jobs import Progress
from lightmill.registry import names
from lightmill.registry.care.digests import digest_of
from lightmill.registry.care.keyed import Opened, check_segments, open_version
from lightmill.registry.care.ledger import Key, Ledger, Version
from lightmill.registry.care.logs import check_chains, check_logs, envelopes_of, needed_by
from lightmill.registry.care.parallel import THREADS, each
from lightmill.registry.care.rollback import Watermarks, rolled_back
from lightmill.registry.opening import read_store_id
from lightmill.storage import BlobStore
from lightmill.vault import KeyRing, parse_json

ENVELOPE_MAX_BYTES = 64 << 10
PART_BYTES = 16 << 20
_OURS = re.compile(
    r"lightmill\.json|(?:q/)?[bm]/[0-9a-f]{2}/[0-9a-f]{64}|r/[a-z2-7]{26}/(?:[vkt]/[0-9]{10}|e/[0-9]{10}/[0-9]{6}"
    r"|a/[a-z][a-z0-9_-]{0,31}/[0-9]{10})|l/[0-9a-f]{32}|g/[0-9]{10}|(?:q/)?probe/[0-9a-f]{32}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to check.

    Attributes:
        keyring: Opens versions as well; without it the check is keyless.
        marks: What the catalog remembers; None when there is no catalog to ask.
        sample: Percentage of the objects to read; the rest is looked for but not read.
        seed: Chooses the sample.
        threads: How many objects are read at once, each into at most 16 MiB, or whole at the keyed level.
        report: Whom to tell how far it is.
    """

    keyring: KeyRing | None = None
    marks: Watermarks | None = None
    sample: float = 100.0
    seed: int = 0
    threads: int = THREADS
    report: Callable[[Progress], None] = lambda _: None


def check(store: BlobStore, trusted: Mapping[str, bytes], options: Options | None = None) -> CheckReport:
    """Check a store, which may be in use; return every finding by object and version.

    Raises:
        RequestError: The sample is not above 0 and at most 100.
        NotFoundError: There is no store.
        UnavailableError: The store, or with a key ring the key service, does not answer.
        IntegrityError: `lightmill.json` is damaged or of a newer format; nothing else can be judged.
    """
    options = options or Options()
    if not 0 < options.sample <= 100:
        raise RequestError(f"A sample is a percentage above 0 and up to 100, not {options.sample}.")
    return _Check(store, trusted, options).run()


class _Check:
    def __init__(self, store: BlobStore, trusted: Mapping[str, bytes], options: Options) -> None:
        self._store = store
        self._trusted = trusted
        self._options = options
        self._ledger = Ledger(store, trusted, read_store_id(store), threads=options.threads)
        self._findings: list[Finding] = []
        self._names: dict[Key, str] = {}
        self._keys: dict[str, tuple[BlobEntry, Version]] = {}
        self._bytes = self._segments = 0

    def run(self) -> CheckReport:
        self._tell("records", 0, 0)
        listed = list(self._ledger.refresh())
        marks = self._options.marks
        aliases, problems = check_logs(self._store, self._trusted, self._ledger, listed, threads=self._options.threads)
        self._findings += [*check_chains(self._ledger), *problems]
        self._findings += rolled_back(self._store, marks or {}, threads=self._options.threads)
        self._envelopes(listed)
        present = [name for name in self._store.list("") if not name.startswith(names.RECORDS)]
        read = self._objects(present)
        self._left_over(present, listed)
        alive = self._ledger.alive()
        return CheckReport(
            store=self._ledger.store_id,
            deep=self._options.keyring is not None,
            sample=self._options.sample,
            seed=self._options.seed,
            assets=len(self._ledger.assets()),
            versions=len(alive),
            deleted=len(self._ledger.versions) - len(alive),
            aliases=aliases,
            objects=sum(digest_of(name) is not None for name in present),
            objects_read=read,
            bytes_read=self._bytes,
            segments=self._segments,
            leases=sum(name.startswith(names.LEASES) for name in present),
            quarantined=sum(name.startswith(names.QUARANTINE) for name in present),
            marks=None if marks is None else len(marks),
            findings=_one_each(self._findings),
        )

    # -- envelopes and manifests ------------------------------------------------

    def _envelopes(self, listed: list[str]) -> None:
        found = envelopes_of(listed)
        alive = [version for version in self._ledger.alive() if not version.problem]  # a forged record says nothing
        for version in alive:
            if not found.get((version.mid, version.seq)):
                self._miss_envelope(version)
        work = self._open if self._options.keyring else self._look
        items = [(version, found.get((version.mid, version.seq), [])) for version in alive]
        for done, opened in enumerate(each(work, items, self._options.threads), start=1):
            self._findings += opened.findings
            self._names[opened.version.mid, opened.version.seq] = opened.what
            if opened.manifest:
                for blob in opened.manifest.blobs:
                    self._keys[names.blob_name(blob.id)] = (blob, opened.version)
            self._tell("versions", done, len(items))

    def _miss_envelope(self, version: Version) -> None:
        """Note that a version has no envelope, unless one came since the records were listed."""
        if any(self._store.list(names.envelopes_prefix(version.mid, version.seq))):
            return
        name = names.envelope_name(version.mid, version.seq, 0)
        self._note(Problem.MISSING, name, (version,), "the version has no envelope, so nobody can open it")

    def _open(self, item: tuple[Version, list[str]]) -> Opened:
        assert self._options.keyring is not None  # noqa: S101 - chosen by the caller
        version, envelopes = item
        opened = open_version(self._store, self._options.keyring, version, envelopes)
        if opened.manifest or opened.findings:
            return opened
        again = list(self._store.list(names.envelopes_prefix(version.mid, version.seq)))  # rotated meanwhile
        return open_version(self._store, self._options.keyring, version, again)

    def _look(self, item: tuple[Version, list[str]]) -> Opened:
        """Check the form of envelopes: all that is possible without a key."""
        version, envelopes = item
        findings = []
        for name in envelopes:
            try:
                found = parse_json(self._store.get(name), ENVELOPE_MAX_BYTES, name=name)
            except NotFoundError:
                continue
            except IntegrityError as exc:
                found = {"problem": exc.message}
            record = version.record
            context = {
                "store": record.store,
                "workspace": record.workspace,
                "mid": version.mid,
                "seq": str(version.seq),
            }
            if found.get("context") != context or found.get("rot") != names.last_number(name):
                detail = str(found.get("problem") or "it belongs to another version, store or rotation")
                findings.append(Finding(problem=Problem.DAMAGED, object=name, versions=(str(version),), detail=detail))
        return Opened(version=version, manifest=None, findings=tuple(findings))

    # -- objects ------------------------------------------------------------------

    def _objects(self, present: list[str]) -> int:
        """Look for what versions need and read the sample; return how many objects were read."""
        needed = needed_by(self._ledger.alive())
        there = [name for name in present if digest_of(name)]
        self._miss(sorted(set(needed) - set(there)))
        chosen = self._choose(there)
        read = 0
        for done, reading in enumerate(
            each(lambda name: self._read(name, needed), chosen, self._options.threads), start=1
        ):
            read += reading is not None
            if reading is not None:
                self._bytes += reading.size
                self._segments += reading.segments
                if reading.problem:
                    users = needed[reading.name][1] if reading.name in needed else []
                    problem = Problem.DAMAGED if users else Problem.ORPHANED  # what nobody needs costs nobody a version
                    self._note(problem, reading.name, users, reading.problem)
            self._tell("objects", done, len(chosen))
        return read

    def _miss(self, absent: list[str]) -> None:
        """Note what is absent, unless its versions were deleted and collected since the records were listed."""
        if not absent:
            return
        self._ledger.refresh()
        needed = needed_by(self._ledger.alive())
        for name in absent:
            if name in needed and not self._exists(name):
                kept = self._exists(names.quarantine_name(name))
                self._note(Problem.MISSING, name, needed[name][1], "it lies in quarantine" if kept else "")

    def _choose(self, there: list[str]) -> list[str]:
        if self._options.sample >= 100:
            return there
        count = math.ceil(len(there) * self._options.sample / 100)
        return sorted(random.Random(self._options.seed).sample(there, count))  # noqa: S311 - no secret depends on it

    def _read(self, name: str, needed: Mapping[str, tuple[int, list[Version]]]) -> _Reading | None:
        """Read one object and compare it with its name and its versions; None when it is gone by now."""
        entry = self._keys.get(name)
        try:
            if entry is None:
                size, digest = _digest(self._store, name)
                return _Reading(name=name, size=size, problem=_compare(name, size, digest, needed))
            data = self._store.get(name)
        except NotFoundError:
            return None
        except IntegrityError as exc:  # it became shorter while it was read
            return _Reading(name=name, size=0, problem=exc.message)
        problem = _compare(name, len(data), hashlib.sha256(data).hexdigest(), needed)
        segments = 0
        if not problem:
            try:
                segments = check_segments(data, *entry, name)
            except IntegrityError as exc:
                problem = exc.message
        return _Reading(name=name, size=len(data), problem=problem, segments=segments)

    def _exists(self, name: str) -> bool:
        try:
            self._store.head(name)
        except NotFoundError:
            return False
        return True

    # -- the rest -------------------------------------------------------------------

    def _left_over(self, present: list[str], listed: list[str]) -> None:
        """Note what no version needs, by the records as they are after the objects were listed."""
        self._ledger.refresh()
        needed = needed_by(self._ledger.alive())
        dead = needed_by(v for v in self._ledger.versions.values() if self._ledger.deleted(v))
        noted = {finding.object for finding in self._findings}
        for name in present:
            if not _OURS.fullmatch(name):
                self._note(Problem.FOREIGN, name, (), "Lightmill writes no such name")
            elif name.startswith("probe/"):
                self._note(Problem.ORPHANED, name, (), "left by a probe that was interrupted")
            elif digest_of(name) and not name.startswith(names.QUARANTINE) and name not in needed:
                users = dead[name][1] if name in dead else ()
                if name not in noted:
                    self._note(
                        Problem.ORPHANED, name, users, "of a deleted version" if users else "no version names it"
                    )
        for name in listed:
            if not _OURS.fullmatch(name):
                self._note(Problem.FOREIGN, name, (), "Lightmill writes no such name")
        for (mid, seq), envelopes in envelopes_of(listed).items():
            if (mid, seq) not in self._ledger.versions and names.record_name(mid, seq) not in noted:
                for name in envelopes:
                    self._note(Problem.ORPHANED, name, (), "its version was never committed")

    def _note(self, problem: Problem, name: str, versions: Iterable[Version], detail: str) -> None:
        users = tuple(self._names.get((v.mid, v.seq), str(v)) for v in versions)
        self._findings.append(Finding(problem=problem, object=name, versions=users, detail=detail))

    def _tell(self, phase: str, done: int, total: int) -> None:
        self._options.report(Progress(phase=phase, done=done, total=total, unit="objects"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    name: str
    size: int
    problem: str = ""
    segments: int = 0


def _digest(store: BlobStore, name: str) -> tuple[int, str]:
    """Return size and SHA-256 of an object, read in parts."""
    size = store.head(name)
    room = memoryview(bytearray(min(size, PART_BYTES)))
    found = hashlib.sha256()
    for start in range(0, size, PART_BYTES):
        part = room[: min(PART_BYTES, size - start)]
        store.read_into(name, start, part)
        found.update(part)
    return size, found.hexdigest()


def _compare(name: str, size: int, digest: str, needed: Mapping[str, tuple[int, list[Version]]]) -> str:
    if name in needed and size != needed[name][0]:
        return f"it has {size} bytes where its versions say {needed[name][0]}"
    return "" if digest == digest_of(name) else "its bytes have another digest than its name"


def _one_each(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Keep the first finding of each kind about an object; the harmful ones first, then by name."""
    found: dict[tuple[Problem, str], Finding] = {}
    for finding in findings:
        found.setdefault((finding.problem, finding.object), finding)
    return tuple(sorted(found.values(), key=lambda f: (not f.problem.harmful, f.problem, f.object)))
