"""The signed logs of a store, checked without a secret: signatures, places, and chains without gaps."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.records.care import Finding, Problem
from lightmill.registry import names
from lightmill.registry.care.ledger import Ledger, Version
from lightmill.registry.care.parallel import THREADS, each
from lightmill.registry.signed import RECORD_MAX_BYTES
from lightmill.storage import BlobStore
from lightmill.vault import ALIAS_TYPE, COMMIT_TYPE, TOMBSTONE_TYPE, parse_json, verify

ANNOTATION_TYPE = "application/vnd.lightmill.annotation+json"
_TYPES = {"v": COMMIT_TYPE, "a": ALIAS_TYPE, "k": ANNOTATION_TYPE, "t": TOMBSTONE_TYPE}
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


def check_logs(
    store: BlobStore, trusted: Mapping[str, bytes], ledger: Ledger, listed: Iterable[str], *, threads: int = THREADS
) -> tuple[int, list[Finding]]:
    """Check every entry of the logs of aliases and annotations; return how many aliases there are, and findings."""
    logs: dict[str, dict[int, str]] = {}
    for name in listed:
        folder, _, number = name.rpartition("/")
        if part_of(name) in ("a", "k") and _DIGITS.fullmatch(number):
            logs.setdefault(folder, {})[int(number)] = name

    def check(folder: str) -> list[Finding]:
        return _check_log(store, trusted, ledger, folder, logs[folder])

    findings = [finding for found in each(check, sorted(logs), threads) for finding in found]
    return sum(part_of(folder) == "a" for folder in logs), findings


def _check_log(
    store: BlobStore, trusted: Mapping[str, bytes], ledger: Ledger, folder: str, entries: dict[int, str]
) -> list[Finding]:
    _, mid, *stream = folder.split("/")
    what = (f"{mid}@{stream[-1]}" if stream[0] == "a" else mid,)
    findings: list[Finding] = []
    parent: str | None = None
    known = True
    for n in range(1, max(entries) + 1):
        name = f"{folder}/{n:010d}"
        try:
            data = store.get(name)
        except NotFoundError:
            detail = "a later entry exists" if n not in entries else "it was listed and is gone"
            findings.append(Finding(problem=Problem.MISSING, object=name, versions=what, detail=detail))
            known = False
            continue
        try:
            entry = read_entry(data, name, trusted, ledger.store_id)
            _check_links(entry, name, ledger, parent if known else entry.get("parent"))
        except IntegrityError as exc:
            findings.append(_damaged(name, what, exc.message))
        parent, known = hashlib.sha256(data).hexdigest(), True
    return findings


def _check_links(entry: Mapping[str, Any], name: str, ledger: Ledger, parent: str | None) -> None:
    if entry.get("parent") != parent:
        raise IntegrityError(f"{name} does not follow the entry before it")
    version = ledger.versions.get((entry["mid"], entry.get("seq", 0)))
    if version is not None and version.digest != entry.get("record"):
        raise IntegrityError(f"{name} names another record than that of {version}")


def read_entry(data: bytes, name: str, trusted: Mapping[str, bytes], store_id: str) -> dict[str, Any]:
    """Return what a record says, if somebody trusted signed it for the place that its name is.

    Raises:
        IntegrityError: Nobody did.
    """
    part = part_of(name)
    payload, key_id = verify(data, _TYPES[part], trusted, name=name)
    entry = parse_json(payload, RECORD_MAX_BYTES, name=name)
    _, mid, *stream, _ = name.split("/")
    number = entry.get("seq" if part in ("v", "t") else "n")
    place = (entry.get("store"), entry.get("mid"), number, entry.get("publisher"))
    alias = entry.get("alias") if part == "a" else None
    if place != (store_id, mid, names.last_number(name), key_id) or (part == "a" and stream[-1] != alias):
        raise IntegrityError(f"{name} belongs to another place; it was copied or swapped")
    return entry


def is_record(name: str) -> bool:
    """Whether an object of this name is signed."""
    return part_of(name) in _TYPES


def part_of(name: str) -> str:
    """Return which folder of an asset a name lies in: v, e, a, k or t; empty when it is no record's name."""
    parts = name.split("/")
    return parts[2] if name.startswith(names.RECORDS) and len(parts) > 3 else ""


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
