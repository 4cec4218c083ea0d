"""Checkpoints that nobody needs any more are deleted; their bytes go with the next collection."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from lightmill.errors import ConflictError, NotFoundError, UnavailableError
from lightmill.records.references import AssetKind, VersionId
from lightmill.registry import Registry

REASON = "a checkpoint that is not needed any more"
logger = logging.getLogger("lightmill.training")


def forget(registry: Registry, checkpoints: Iterable[VersionId]) -> None:
    """Delete versions; what others deleted or use meanwhile, or what the store does not take now, stays as it is."""
    for id in checkpoints:
        try:
            registry.delete(id.kind, id.name, id.seq, REASON)
        except (NotFoundError, ConflictError):
            continue
        except UnavailableError as exc:
            logger.warning("checkpoint %s stays: %s", id, exc)


def forget_run(registry: Registry, run: str, *, but: VersionId | None = None) -> None:
    """Delete the checkpoints of a run, except one."""
    try:
        newest, gone = registry.latest(AssetKind.RUN, run), registry.deleted(AssetKind.RUN, run)
    except NotFoundError:
        return
    seqs = (seq for seq in range(1, newest + 1) if seq not in gone and (but is None or seq != but.seq))
    forget(registry, (VersionId(kind=AssetKind.RUN, name=run, seq=seq, digest="") for seq in seqs))
