"""Retention: a pure decision over what is known of an asset's versions, and the deletions that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from lightmill.catalog import Catalog
from lightmill.errors import ConflictError, NotFoundError
from lightmill.records.annotations import Stage
from lightmill.records.assets import VersionSummary
from lightmill.records.references import AssetKind
from lightmill.records.retention import RetentionDecision, RetentionPlan, RetentionPolicy
from lightmill.registry.registry import Registry

SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A version and what may hold it: users (such as `alias 'champion'`), versions made from it or evaluated on it."""

    version: VersionSummary
    users: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    evaluated: tuple[str, ...] = ()


def decide(versions: Sequence[Held], policy: RetentionPolicy, now: str) -> tuple[RetentionDecision, ...]:
    """Return what happens to each version, newest first.

    Args:
        versions: All that are not deleted, in any order.
        policy: What keeps a version.
        now: The time, in the form of `now_iso`.
    """
    ordered = sorted(versions, key=lambda held: -held.version.id.seq)
    return tuple(_decision(held, place, policy, now) for place, held in enumerate(ordered))


def _decision(held: Held, place: int, policy: RetentionPolicy, now: str) -> RetentionDecision:
    version = held.version
    age = datetime.fromisoformat(now) - datetime.fromisoformat(version.created)
    last = policy.keep_last is not None and place < policy.keep_last
    young = policy.keep_days is not None and age < timedelta(days=policy.keep_days)
    keeps = [
        "it is the newest" if place == 0 else "",
        f"it is among the last {policy.keep_last}" if last and place else "",
        f"it is younger than {policy.keep_days:g} days" if young else "",
        *(f"{user} uses it" for user in held.users),
    ]
    if policy.keep_tagged:
        keeps += [f"it has the tag {name}={value}" for name, value in version.tags.items()]
        keeps += [f"its stage is {version.stage}"] if version.stage not in (Stage.NONE, Stage.ARCHIVED) else []
    if not policy.even_if_used:
        keeps += [_several("made from it", held.made), _several("evaluated on it", held.evaluated)]
    why = tuple(reason for reason in keeps if reason)
    return RetentionDecision(
        version=version.id,
        created=version.created,
        size_bytes=version.size_bytes,
        keep=bool(why),
        why=why or _outlived(policy, held, age),
    )


def _outlived(policy: RetentionPolicy, held: Held, age: timedelta) -> tuple[str, ...]:
    """Return why nothing keeps a version, and what loses its origin."""
    found = [f"it is not among the last {policy.keep_last}"] if policy.keep_last is not None else []
    if policy.keep_days is not None:
        found.append(f"it is {age.total_seconds() / 86_400:.1f} days old, and {policy.keep_days:g} are kept")
    used = (*held.made, *held.evaluated)
    return (*found, f"its use by {_some(used)} does not count") if used else tuple(found)


def _several(what: str, names: Sequence[str]) -> str:
    return f"{_some(names)} {'was' if len(names) == 1 else 'were'} {what}" if names else ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def plan_retention(
    registry: Registry, catalog: Catalog, kind: AssetKind, name: str, policy: RetentionPolicy, now: str
) -> RetentionPlan:
    """Return what a policy says of an asset's versions now; nothing is deleted.

    The catalog is brought up to date first: what was made from a version is looked up there.

    Raises:
        NotFoundError: There is no such asset.
        IntegrityError: Something stored is not what was written.
    """
    registry.heal()
    catalog.versions.asset(kind, name)
    aliases = registry.aliases(kind, name)
    held = [_held(registry, catalog, version, aliases) for version in catalog.versions.list(kind, name)]
    return RetentionPlan(kind=kind, name=name, policy=policy, at=now, decisions=decide(held, policy, now))


def _held(registry: Registry, catalog: Catalog, version: VersionSummary, aliases: dict[str, int]) -> Held:
    id = version.id
    return Held(
        version=version,
        users=(
            *(f"alias {alias!r}" for alias, seq in sorted(aliases.items()) if seq == id.seq),
            *registry.endpoints_of(id),
        ),
        made=tuple(f"{made.id.kind} {made.id}" for made in catalog.versions.derived_from(id)),
        evaluated=tuple(f"{one.id.kind} {one.id}" for one in catalog.versions.evaluated_on(id)),
    )


def apply_retention(registry: Registry, plan: RetentionPlan) -> RetentionPlan:
    """Delete what a plan lets go, oldest first; return the plan with what was done.

    A version that an alias or an endpoint has taken up meanwhile stays, and the plan says so. Bytes go with the next
    collection.
    """
    deleted: list[str] = []
    refused: dict[str, str] = {}
    for decision in reversed(plan.decisions):
        if decision.keep:
            continue
        id = decision.version
        try:
            registry.delete(id.kind, id.name, id.seq, f"retention: {plan.policy}")
        except (ConflictError, NotFoundError) as exc:
            refused[str(id)] = exc.message
        else:
            deleted.append(str(id))
    return plan.model_copy(update={"applied": True, "deleted": tuple(deleted), "refused": refused})
