"""Which checkpoints of a run stay: the best by validation loss, and the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightmill.errors import ConflictError, NotFoundError
from lightmill.records.assets import RunCard
from lightmill.records.references import AssetKind, Reference, VersionId
from lightmill.records.training import CheckpointSpec
from lightmill.registry import Registry

SCORE = "validation_loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A checkpoint that is there; `loss` is its validation loss, None in the middle of an epoch."""

    id: VersionId
    epoch: int
    step: int
    loss: float | None


def kept(id: VersionId, card: RunCard) -> Kept:
    """Return what is known of a checkpoint."""
    return Kept(id=id, epoch=card.epoch, step=card.step, loss=card.metrics.get(SCORE))


def ranked(known: Sequence[Kept]) -> list[Kept]:
    """Return the checkpoints that have a validation loss, the best first, the earlier epoch of equals."""
    scored = [(one.loss, one.epoch, one.id.seq, one) for one in known if one.loss is not None]
    return [item[-1] for item in sorted(scored, key=lambda item: item[:3])]


def fallen_out(known: Sequence[Kept], spec: CheckpointSpec) -> list[Kept]:
    """Return those that neither are among the best nor among the last."""
    last = sorted(known, key=lambda one: one.id.seq)[-spec.keep_last :]
    stay = {one.id.seq for one in (*last, *ranked(known)[: spec.keep_best])}
    return [one for one in known if one.id.seq not in stay]


def checkpoints_of(registry: Registry, run: str) -> list[Kept]:
    """Return the checkpoints of a run that were not deleted, oldest first; none if there is no such run.

    Raises:
        IntegrityError: One of them is not what was written.
    """
    try:
        latest = registry.latest(AssetKind.RUN, run)
        deleted = registry.deleted(AssetKind.RUN, run) if latest else set()
    except NotFoundError:
        return []
    found = []
    for seq in range(1, latest + 1):
        if seq in deleted:
            continue
        id = registry.resolve(AssetKind.RUN, Reference(name=run, selector=str(seq)))
        card = registry.open(id).manifest.run
        if card is not None:
            found.append(kept(id, card))
    return found


def newest_checkpoint(registry: Registry, run: str) -> VersionId | None:
    """Return the version that a run goes on from, if it has one."""
    try:
        return registry.resolve(AssetKind.RUN, Reference(name=run))
    except NotFoundError:
        return None


def let_go(registry: Registry, known: Sequence[Kept], spec: CheckpointSpec) -> list[Kept]:
    """Delete what falls out, and return what stays. An alias may hold a checkpoint: then it stays."""
    gone = set()
    for one in fallen_out(known, spec):
        try:
            registry.delete(one.id.kind, one.id.name, one.id.seq, "a later or better checkpoint took its place")
        except NotFoundError:
            pass
        except ConflictError:
            continue
        gone.add(one.id.seq)
    return [one for one in known if one.id.seq not in gone]
