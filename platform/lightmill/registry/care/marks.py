"""The collector's memory and its decisions: pure, so that a test can step them by hand.

Objects on a store have no age that every store reports alike, so a collector writes down what it saw: an
object is as old as the unbroken run of marks that saw it unneeded. One mark follows another; `g/<n>` is
created if absent, so of two collectors at once one gives way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from lightmill.errors import UnavailableError
from lightmill.records.base import Record

GRACE = timedelta(hours=24)
"""How long an object must have been unneeded, and a lease not renewed, before it is a candidate."""

APART = timedelta(hours=4)
"""How long after the cycle that made it a candidate another one must confirm it."""

QUARANTINE = timedelta(days=7)
"""How long a removed object can be put back."""

SKEW = timedelta(minutes=10)
"""How far in the future a mark may lie; more means that the clocks of two collectors differ."""


class Seen(Record):
    """Since when (time and number of the mark) something was seen; `due` is when it became a candidate.

    A lease is as old as its last renewal; `renewals` counts them.
    """

    since: str
    n: int
    due: str | None = None
    renewals: int = 0


class Mark(Record):
    """What one cycle saw: unneeded objects, leases, and what lies in quarantine since when."""

    format: Literal[1] = 1
    n: int
    created: str
    objects: dict[str, Seen] = Field(default_factory=dict)
    leases: dict[str, Seen] = Field(default_factory=dict)
    quarantine: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a collector sees now.

    Attributes:
        now: The time, as records write it.
        garbage: Each unneeded object, with the assets whose deleted versions name it.
        leases: Each lease by its publish id, with the asset it is for; None when it cannot be read.
        quarantine: Objects, by their original names, that lie in quarantine.
        renewals: How often each lease was renewed.
    """

    now: str
    garbage: Mapping[str, frozenset[str]]
    leases: Mapping[str, str | None]
    quarantine: frozenset[str]
    renewals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do now, and the mark to write before doing it.

    Attributes:
        mark: What the next cycle starts from.
        remove: Objects to quarantine and delete.
        expire: Leases to delete, by publish id.
        purge: Objects to delete from quarantine, by their original names.
        leased: Unneeded objects that a running publish may be about to name.
        young: Unneeded objects whose grace period runs.
        waiting: Candidates that another cycle must confirm.
    """

    mark: Mark
    remove: tuple[str, ...]
    expire: tuple[str, ...]
    purge: tuple[str, ...]
    leased: tuple[str, ...]
    young: tuple[str, ...]
    waiting: tuple[str, ...]


def decide(previous: Mark | None, sight: Sight) -> Decision:
    """Return what a collector does.

    An object goes when it has been unneeded for 24 h without a break, is not leased, and was found so in two
    cycles at least 4 h apart. A lease goes by the same rule.

    Raises:
        UnavailableError: The last mark lies in the future.
    """
    last = previous or Mark(n=0, created=sight.now)
    if time_between(sight.now, last.created) > SKEW:
        raise UnavailableError(
            f"The last mark on the store was made at {last.created}, but here it is {sight.now}: two clocks differ. "
            "Set them right; nothing was collected"
        )
    n = last.n + 1
    leases = {id: _aged(_lease(last.leases.get(id), sight, id, n), sight.now, n) for id in sight.leases}
    expire = {id for id, seen in leases.items() if _confirmed(seen, sight.now)}
    held = {id: seen for id, seen in leases.items() if id not in expire}
    objects: dict[str, Seen] = {}
    leased: set[str] = set()
    for name, assets in sight.garbage.items():
        seen = last.objects.get(name) or Seen(since=sight.now, n=n)
        if any(_protects(sight.leases[id], lease, assets, seen) for id, lease in held.items()):
            leased.add(name)
            objects[name] = seen.model_copy(update={"due": None})
        else:
            objects[name] = _aged(seen, sight.now, n)
    remove = {name for name, seen in objects.items() if _confirmed(seen, sight.now)}
    quarantine = {name: last.quarantine.get(name, sight.now) for name in sight.quarantine}
    purge = {name for name, since in quarantine.items() if time_between(since, sight.now) >= QUARANTINE} - remove
    kept = {name: since for name, since in quarantine.items() if name not in purge}
    return Decision(
        mark=Mark(
            n=n,
            created=sight.now,
            objects={name: seen for name, seen in objects.items() if name not in remove},
            leases=held,
            quarantine=kept | dict.fromkeys(remove, sight.now),
        ),
        remove=tuple(sorted(remove)),
        expire=tuple(sorted(expire)),
        purge=tuple(sorted(purge)),
        leased=tuple(sorted(leased)),
        young=tuple(sorted(n for n, s in objects.items() if n not in leased and s.due is None)),
        waiting=tuple(sorted(n for n, s in objects.items() if n not in remove and s.due is not None)),
    )


def time_between(earlier: str, later: str) -> timedelta:
    """Return `later` minus `earlier`, two times as records write them."""
    return datetime.fromisoformat(later) - datetime.fromisoformat(earlier)


def _aged(seen: Seen | None, now: str, n: int) -> Seen:
    """Return what was seen, as a candidate once its grace period is over."""
    found = seen or Seen(since=now, n=n)
    if found.due is None and time_between(found.since, now) >= GRACE:
        return found.model_copy(update={"due": now})
    return found


def _lease(seen: Seen | None, sight: Sight, id: str, n: int) -> Seen:
    """Return a lease as young again if it was renewed since; what it protects stays the same."""
    renewals = sight.renewals.get(id, 0)
    if seen is None:
        return Seen(since=sight.now, n=n, renewals=renewals)
    return seen if renewals <= seen.renewals else Seen(since=sight.now, n=seen.n, renewals=renewals)


def _confirmed(seen: Seen, now: str) -> bool:
    return seen.due is not None and time_between(seen.due, now) >= APART


def _protects(asset: str | None, lease: Seen, assets: frozenset[str], seen: Seen) -> bool:
    """Whether the publisher that holds a lease may be about to name an object.

    It may reuse what versions of its own asset name. Anything else that it will name it wrote after its
    lease, and a cycle lists objects before leases, so it was first seen no earlier than the lease.
    """
    if assets:
        return asset is None or asset in assets
    return lease.n <= seen.n
