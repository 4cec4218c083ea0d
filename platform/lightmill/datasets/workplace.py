"""Where an ingestion keeps what it has finished: its draft on the store, and its journal on disk."""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from lightmill.datasets.journal import Journal
from lightmill.datasets.sources.port import Source
from lightmill.errors import ConflictError, IntegrityError, LightmillError, NotFoundError, UnavailableError
from lightmill.models.preparation.stages import settle
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.references import AssetKind
from lightmill.registry import Draft, Registry

FORMAT = 1
JOURNAL_KEY = "journal"
USELESS_AFTER_S = 2 * 86_400
"""A journal whose draft's lease has been collected is of no use; a lease stays for a day after its last renewal."""
RENEW_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """A draft, and the journal of what has been made for it."""

    draft: Draft
    journal: Journal


def identity(spec: DatasetSpec, folder: Path, source: Source, registry: Registry, base: str) -> str:
    """Return a name for exactly this ingestion: the same rows, specification and code, onto the same version.

    A preparation with `python` steps is never the same, since their code may have changed, nor is a source that cannot
    tell whether its rows have.
    """
    rows = source.identity()
    told = {
        "format": FORMAT,
        "lightmill": version("lightmill"),
        "spec": spec.model_dump(mode="json", exclude={"description", "licence"}),
        "folder": str(folder.resolve()),
        "rows": rows,
        "code": _code(),
        "settled": [step.model_dump(mode="json") for _, step in sorted(settle(spec.prepare, folder).steps.items())],
        "store": registry.store_id,
        "workspace": registry.workspace,
        "base": base,
    }
    if rows is None or any(step.step == "python" for step in spec.prepare):
        told["once"] = secrets.token_hex(16)
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _code() -> list[tuple[str, int, int]]:
    """Return the modules of the platform with their sizes and times: another commit is another code."""
    root = Path(__file__).parents[1]
    found = [(path, path.stat()) for path in sorted(root.rglob("*.py"))]
    return [(str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns) for path, stat in found]


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
        with renewing(work.draft):
            yield work
    except BaseException as exc:
        refused = isinstance(exc, LightmillError) and not isinstance(exc, UnavailableError | ConflictError)
        if refused or not keeps:
            work.journal.remove()
            with suppress(UnavailableError):  # the lease goes with time; the refusal is what matters
                work.draft.release()
        raise
    else:
        work.journal.remove()
    finally:
        work.journal.close()


@contextmanager
def renewing(draft: Draft, every_s: float = RENEW_EVERY_S) -> Iterator[None]:
    """Renew a draft's lease now and then while the block runs, so that no collector takes its objects."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(every_s):
            with suppress(UnavailableError):  # the next time is early enough
                draft.renew()

    thread = threading.Thread(target=renew, name="renew-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _resumed(registry: Registry, path: Path) -> Workplace | None:
    id = Journal.draft_of(path)
    if id is None:
        return None
    try:
        draft = registry.join(id)
        draft.renew()
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
        with suppress(FileNotFoundError, ConflictError):
            if time.time() - path.stat().st_mtime > USELESS_AFTER_S:
                Journal.discard(path)
