"""The envelopes on a store: finding them, and opening one of several while a rotation replaces them.

A version normally has one envelope. Two lie side by side during a rotation, or after a publisher that lost
the race for a number and died. Only what the version's own key opens decides which is the version's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.registry import names
from lightmill.storage import BlobStore
from lightmill.vault import canonical_json, parse_json
from lightmill.vault.wrapping import MAX_ENVELOPE_BYTES

T = TypeVar("T")
LEASES = "l/"
LOOKS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionEnvelopes:
    """The names of a version's envelopes, sorted, so that the newest rotation is the last."""

    mid: str
    seq: int
    names: tuple[str, ...]
    committed: bool


def open_newest(store: BlobStore, prefix: str, open_one: Callable[[str, bytes], T]) -> T | None:
    """Return what `open_one` makes of the newest envelope that it can open; None when there is none at all.

    A rotation that runs meanwhile creates the next envelope and then removes this one, so whatever was gone
    is looked up again.

    Raises:
        IntegrityError: The first problem, when no envelope opens.
    """
    seen: list[str] = []
    for _ in range(LOOKS):
        found = sorted(store.list(prefix), reverse=True)
        problem: IntegrityError | None = None
        for name in found:
            try:
                return open_one(name, store.get(name))
            except NotFoundError as exc:
                if type(exc) is not NotFoundError:
                    raise
            except IntegrityError as exc:
                problem = problem or exc
        if found == seen:
            if problem:
                raise problem
            return None
        seen = found
    raise IntegrityError(f"The envelopes below {prefix} on {store.url} change without end; is a rotation stuck?")


def all_envelopes(store: BlobStore, mid: str | None = None) -> Iterator[VersionEnvelopes]:
    """Yield the envelopes of every version on the store, or of one asset, in the order of their names."""
    asset, found, records = "", {}, set()
    for name in store.list(f"{names.RECORDS}{mid}/" if mid else names.RECORDS):
        parts = name.split("/")
        if parts[1] != asset:
            yield from _grouped(asset, found, records)
            asset, found, records = parts[1], {}, set()
        if parts[2] == "e" and len(parts) == 5 and parts[3].isdigit():
            found.setdefault(int(parts[3]), []).append(name)
        elif parts[2] == "v":
            records.add(names.last_number(name))
    yield from _grouped(asset, found, records)


def _grouped(mid: str, found: dict[int, list[str]], records: set[int]) -> Iterator[VersionEnvelopes]:
    for seq, entries in sorted(found.items()):
        yield VersionEnvelopes(mid=mid, seq=seq, names=tuple(sorted(entries)), committed=seq in records)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHead:
    """What a publisher's lease says about the key in it; nothing of it is verified."""

    name: str
    mid: str
    provider: str
    key_id: str


def all_leases(store: BlobStore) -> Iterator[LeaseHead]:
    """Yield the leases of drafts that are not committed; what is no lease is passed over."""
    for name in store.list(LEASES):
        try:
            lease = parse_json(store.get(name), MAX_ENVELOPE_BYTES, name=name)
            canonical_json(lease)
            parts = [lease[part] for part in ("mid", "provider", "key_id")]
        except (NotFoundError, IntegrityError, KeyError):
            continue
        if all(isinstance(part, str) for part in parts):
            yield LeaseHead(name=name, mid=parts[0], provider=parts[1], key_id=parts[2])
