"""Where an ingestion keeps what it has finished: its draft on the store, and its journal on disk."""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from lightmill.datasets.journal import Journal
from lightmill.datasets.sources.port import Part
from lightmill.errors import ConflictError, IntegrityError, LightmillError, NotFoundError, UnavailableError
from lightmill.models.preparation.stages import settle
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.references import AssetKind
from lightmill.registry import Draft, Registry

FORMAT = 1
JOURNAL_KEY = "journal"
USELESS_AFTER_S = 2 * 86_400
"""A journal whose draft's lease has been collected is of no use; leases stay for a day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """A draft, and the journal of what has been made for it."""

    draft: Draft
    journal: Journal


def identity(spec: DatasetSpec, folder: Path, parts: Sequence[Part], registry: Registry, base: str) -> str:
    """Return a name for exactly this ingestion: the same rows by the same specification, onto the same version.

    A preparation with `python` steps is never the same, since their code may have changed.
    """
    told = {
        "format": FORMAT,
        "lightmill": version("lightmill"),
        "spec": spec.model_dump(mode="json", exclude={"description", "licence"}),
        "folder": str(folder.resolve()),
        "parts": [part.model_dump(mode="json") for part in parts],
        "settled": [step.model_dump(mode="json") for _, step in sorted(settle(spec.prepare, folder).steps.items())],
        "store": registry.store_id,
        "workspace": registry.workspace,
        "base": base,
    }
    if any(step.step == "python" for step in spec.prepare):
        told["once"] = secrets.token_hex(16)
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def workplace(registry: Registry, spec: DatasetSpec, identity: str, folder: Path | None) -> Iterator[Workplace]:
    """Open the workplace that a killed job left in `folder`, or a new one; without a folder nothing is left.

    What is refused for good leaves nothing either; whatever else ends the work leaves all that is finished.

    Raises:
        ConflictError: Another job does the same now.
    """
    if folder is None:
        with (
            tempfile.TemporaryDirectory(prefix="lightmill-") as made,
            _opened(registry, spec, identity, Path(made), keeps=False) as place,
        ):
            yield place
        return
    _tidy(folder)
    with _opened(registry, spec, identity, folder, keeps=True) as place:
        yield place


@contextmanager
def _opened(registry: Registry, spec: DatasetSpec, identity: str, folder: Path, *, keeps: bool) -> Iterator[Workplace]:
    path = folder / f"{identity}.journal"
    work = _resumed(registry, path) or _begun(registry, spec, path)
    try:
        yield work
    except BaseException as exc:
        refused = isinstance(exc, LightmillError) and not isinstance(exc, UnavailableError)
        if refused or not keeps:
            work.draft.release()
            work.journal.remove()
        raise
    else:
        work.journal.remove()
    finally:
        work.journal.close()


def _resumed(registry: Registry, path: Path) -> Workplace | None:
    id = Journal.draft_of(path)
    if id is None:
        return None
    try:
        draft = registry.join(id)
    except (NotFoundError, IntegrityError):
        return None  # it was committed, or given up, or another key ring's
    return Workplace(draft=draft, journal=Journal.resume(path, draft.subkey(JOURNAL_KEY)))


def _begun(registry: Registry, spec: DatasetSpec, path: Path) -> Workplace:
    draft = registry.begin(AssetKind.DATASET, spec.name)
    try:
        return Workplace(draft=draft, journal=Journal.create(path, draft.id, draft.subkey(JOURNAL_KEY)))
    except ConflictError:
        draft.release()
        raise


def _tidy(folder: Path) -> None:
    """Remove journals that nobody can resume any more."""
    for path in folder.glob("*.journal"):
        if time.time() - path.stat().st_mtime > USELESS_AFTER_S:
            path.unlink(missing_ok=True)
