"""The signed logs of a store, checked without a secret: signatures, places, and chains without gaps."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.records.assets import AliasEntry
from lightmill.records.care import Finding, Problem
from lightmill.registry import names
from lightmill.registry.care.ledger import Ledger, Version
from lightmill.registry.care.parallel import THREADS, each
from lightmill.registry.signed import RECORD_MAX_BYTES, read_record
from lightmill.storage import BlobStore
from lightmill.vault import ALIAS_TYPE, verify

_DIGITS = re.compile(r"[0-9]{10}")


def check_chains(ledger: Ledger) -> list[Finding]:
    """Return what is wrong with the commit records: unreadable, not trusted, missing, or not linked."""
    findings = [*ledger.findings.values(), *ledger.gaps()]
    for (mid, seq), version in sorted(ledger.versions.items()):
        before = ledger.versions.get((mid, seq - 1))
        unlinked = version.record.parent != (before.digest if before else None)
        if not version.problem and unlinked and (before or seq == 1):
            findings.append(_damaged(version.name, (str(version),), "it does not follow the record before it"))
    for (mid, seq), tombstone in sorted(ledger.tombstones.items()):
        version, name = ledger.versions.get((mid, seq)), names.tombstone_name(mid, seq)
        if version is None:
            detail = "its record is not there: an unfinished copy, or a store that was rolled back"
            findings.append(Finding(problem=Problem.ORPHANED, object=name, versions=(f"{mid}@{seq}",), detail=detail))
        elif version.digest != tombstone.record:
            findings.append(_damaged(name, (f"{mid}@{seq}",), "it is for another record than the version's"))
    return findings


def check_aliases(
    store: BlobStore, trusted: Mapping[str, bytes], ledger: Ledger, listed: Iterable[str], *, threads: int = THREADS
) -> tuple[int, list[Finding]]:
    """Check every entry of every alias log; return how many aliases there are, and the findings."""
    logs: dict[tuple[str, str], dict[int, str]] = {}
    for name in listed:
        parts = name.split("/")
        if len(parts) == 5 and parts[2] == "a" and _DIGITS.fullmatch(parts[4]):
            logs.setdefault((parts[1], parts[3]), {})[int(parts[4])] = name

    def check(log: tuple[str, str]) -> list[Finding]:
        return _check_alias(store, trusted, ledger, *log, logs[log])

    return len(logs), [finding for found in each(check, sorted(logs), threads) for finding in found]


def _check_alias(
    store: BlobStore, trusted: Mapping[str, bytes], ledger: Ledger, mid: str, alias: str, entries: dict[int, str]
) -> list[Finding]:
    findings: list[Finding] = []
    parent: str | None = None
    for n in range(1, max(entries) + 1):
        name, what = names.alias_name(mid, alias, n), (f"{mid}@{alias}",)
        try:
            data = store.get(name)
        except NotFoundError:
            detail = "a later entry exists" if n not in entries else "it was listed and is gone"
            findings.append(Finding(problem=Problem.MISSING, object=name, versions=what, detail=detail))
            parent = "unknown"
            continue
        try:
            _check_entry(data, trusted, ledger, (mid, alias, n), name, parent)
        except IntegrityError as exc:
            findings.append(_damaged(name, what, exc.message))
        parent = hashlib.sha256(data).hexdigest()
    return findings


def _check_entry(
    data: bytes,
    trusted: Mapping[str, bytes],
    ledger: Ledger,
    place: tuple[str, str, int],
    name: str,
    parent: str | None,
) -> None:
    payload, key_id = verify(data, ALIAS_TYPE, trusted, name=name)
    entry = read_record(AliasEntry, payload, RECORD_MAX_BYTES, name)
    if (entry.mid, entry.alias, entry.n, entry.publisher, entry.store) != (*place, key_id, ledger.store_id):
        raise IntegrityError(f"{name} belongs to another place; it was copied or swapped")
    if parent != "unknown" and entry.parent != parent:
        raise IntegrityError(f"{name} does not follow the entry before it")
    version = ledger.versions.get((entry.mid, entry.seq))
    if version is not None and version.digest != entry.record:
        raise IntegrityError(f"{name} points at another record than that of {version}")


def envelopes_of(listed: Iterable[str]) -> dict[tuple[str, int], list[str]]:
    """Return the names of the envelopes among listed records, by version."""
    found: dict[tuple[str, int], list[str]] = {}
    for name in listed:
        parts = name.split("/")
        if len(parts) == 5 and parts[2] == "e" and parts[3].isdigit() and parts[4].isdigit():
            found.setdefault((parts[1], int(parts[3])), []).append(name)
    return found


def needed_by(versions: Iterable[Version]) -> dict[str, tuple[int, list[Version]]]:
    """Return size and users of every object that some version needs."""
    found: dict[str, tuple[int, list[Version]]] = {}
    for version in versions:
        for name, size in version.needs():
            found.setdefault(name, (size, []))[1].append(version)
    return found


def _damaged(name: str, versions: tuple[str, ...], detail: str) -> Finding:
    return Finding(problem=Problem.DAMAGED, object=name, versions=versions, detail=detail)
