"""What the care of a store reports: checks, collections, repairs, backups and restorations."""

from __future__ import annotations

from enum import StrEnum

from lightmill.records.base import Record


class Problem(StrEnum):
    """What is wrong with an object.

    MISSING and DAMAGED cost somebody a version. ORPHANED objects are named by no version: a publisher that is at
    work or died, or a deleted version; collection removes them. FOREIGN ones are not of this format.
    """

    MISSING = "missing"
    DAMAGED = "damaged"
    ORPHANED = "orphaned"
    FOREIGN = "foreign"

    @property
    def harmful(self) -> bool:
        """Whether data is lost unless it is repaired."""
        return self in (Problem.MISSING, Problem.DAMAGED)


class Finding(Record):
    """One object with a problem. `versions` are those that need it; `detail` says what was seen."""

    problem: Problem
    object: str
    versions: tuple[str, ...] = ()
    detail: str = ""


class CheckReport(Record):
    """What a check saw.

    `bytes_read` were read and compared with their digests (`objects_read` objects of `objects`). With `deep`,
    `segments` were decrypted as well. `sample` is the percentage that was read, chosen by `seed`. `marks` is
    how many high-water marks of the catalog were compared; None when there was no catalog to ask.
    """

    store: str
    deep: bool
    sample: float
    seed: int
    assets: int
    versions: int
    deleted: int
    aliases: int
    objects: int
    objects_read: int
    bytes_read: int
    segments: int = 0
    leases: int = 0
    quarantined: int = 0
    marks: int | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def harmful(self) -> tuple[Finding, ...]:
        """The findings that cost somebody a version."""
        return tuple(finding for finding in self.findings if finding.problem.harmful)


class CollectReport(Record):
    """What a collection did or, when it was not `applied`, would do.

    `garbage` objects are named by no version; of them `young` are not old enough, `leased` may belong to a
    running publish, `waiting` must be seen once more, and `removed` went to quarantine. `purged` left the
    quarantine for good; `restored` came back from it, since a version needs them. `expired` are leases of
    publishers that died. Sizes in bytes.
    """

    applied: bool
    mark: int
    live: int
    garbage: int
    young: int
    leased: int
    waiting: int
    removed: tuple[str, ...] = ()
    removed_bytes: int = 0
    restored: tuple[str, ...] = ()
    purged: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()
    quarantined: int = 0


class Repair(Record):
    """One object that was put back, and where its bytes came from."""

    object: str
    source: str


class RepairReport(Record):
    """What was put back, what is lost (with the versions that need it), and rows that the catalog got."""

    repaired: tuple[Repair, ...]
    lost: tuple[Finding, ...]
    healed: int = 0
    catalog: bool = False


class RebuildReport(Record):
    """What a rebuilt catalog holds; `unreadable` versions could not be listed and need a repair."""

    assets: int
    versions: int
    aliases: int
    unreadable: tuple[str, ...] = ()


class BackupReport(Record):
    """What one run copied. `present` objects were there already; `verified` were read back and hashed.

    `replaced` objects had been damaged in the target and were written again. Versions named by a finding are
    not whole in the copy. Sizes in bytes.
    """

    source: str
    target: str
    store: str
    versions: int
    deleted: int
    copied: int
    copied_bytes: int
    present: int
    verified: int
    replaced: int = 0
    findings: tuple[Finding, ...] = ()


class RestoreReport(Record):
    """What came back: the copy, the rebuilt catalog, and the check of the result."""

    copy_report: BackupReport
    rebuilt: RebuildReport
    check: CheckReport
