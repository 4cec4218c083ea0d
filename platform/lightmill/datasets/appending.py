"""Appending: a version that shares the files of the one before, and adds those of new source files.

Nothing of before is read or written again. New rows are divided, masked and prepared as those of before were, so
that a model's inputs mean the same; a whole ingestion is what fits the preparation anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightmill.datasets.parquet import DATA_KEY, FOOTER_KEY, tag_name
from lightmill.datasets.rows import Blocks
from lightmill.datasets.sealed import QUARANTINE
from lightmill.datasets.sources.file_source import FileSource
from lightmill.datasets.sources.port import WHOLE_FILES
from lightmill.datasets.sources.selection import Selection
from lightmill.errors import NotFoundError, RequestError
from lightmill.models.preparation.stages import Found
from lightmill.records.assets import DatasetCard, FileEntry, Lender
from lightmill.records.base import Record
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.fitted import FittedPreparation
from lightmill.records.references import AssetKind, Reference
from lightmill.records.splitting import SPLITS, SplitRule
from lightmill.registry import OpenVersion, Registry

STATE_FILE = "ingest.json"
_SAME = ("columns", "rules", "masking", "split", "prepare", "features", "keep_source_columns")


class IngestState(Record):
    """What an append needs to know of the version before; a file of the version.

    Attributes:
        declared: The parts of the specification that rows depend on.
        files: How many source files have been numbered; row ids hold the number of their file.
        tasks: How many tasks have been numbered; names of files hold the number of their task.
        kept: How many rows held to the schema, before the preparation.
        tags: The tags whose columns have keys of their own.
        rule: What tells splits.
        fitted: The preparation.
    """

    declared: dict[str, Any]
    files: int
    tasks: int
    kept: int
    tags: tuple[str, ...]
    rule: SplitRule
    fitted: FittedPreparation

    @property
    def found(self) -> Found:
        """Return the preparation as fitting finds it."""
        return Found(steps=dict(enumerate(self.fitted.steps)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The version that is appended to; `last` is the newest number when it was looked up, deleted ones included."""

    version: OpenVersion
    last: int
    card: DatasetCard
    state: IngestState

    def select(self, blocks: Blocks) -> Blocks:
        """Return the blocks of the files that the version has not read.

        Raises:
            RequestError: The source is not files, or one that was read has another size now.
        """
        whole = isinstance(blocks.source, FileSource) and blocks.source.origins() == self.card.origins == WHOLE_FILES
        if not (whole and isinstance(blocks.source, FileSource)):
            raise RequestError(
                "`append` adds new files of rows, and this source, or that of before, has none such. "
                "Leave out `append` to read all of it."
            )
        known = {file.name: file.size_bytes for file in self.card.sources}
        files = {file.path: file.size_bytes for _, file in blocks.source.files}
        for path, size in files.items():
            if path in known and size and known[path] != size:  # over HTTP sizes are not known
                raise RequestError(
                    f"{path} has {size} bytes now and had {known[path]} in {self.version.id}. `append` reads new files "
                    "only; leave it out to read all of them again."
                )
        fresh = [path for path in files if path not in known]
        source = Selection(blocks.source, fresh, self.state.files)
        return Blocks(source=source, parts=tuple(source.parts()))

    def shared(self) -> tuple[tuple[FileEntry, ...], tuple[Lender, ...]]:
        """Return the files that the new version shares, and the versions that wrote them with their keys."""
        manifest = self.version.manifest
        names = [FOOTER_KEY, DATA_KEY, *(tag_name(number) for number in range(len(self.state.tags)))]
        mine = Lender(seq=self.version.id.seq, subkeys={name: self.version.subkey(name).hex() for name in names})
        own = len(manifest.lenders)
        files = tuple(
            entry if entry.lender is not None else entry.model_copy(update={"lender": own})
            for entry in manifest.files
            if entry.group in (*SPLITS, QUARANTINE)
        )
        return files, (*manifest.lenders, mine)


def declared(spec: DatasetSpec) -> dict[str, Any]:
    """Return the parts of a specification that rows depend on, besides the source."""
    return spec.model_dump(mode="json", include=set(_SAME))


def find_base(spec: DatasetSpec, registry: Registry) -> Base | None:
    """Return the newest version, to append to; None if there is none yet.

    Raises:
        RequestError: The specification is not that of the newest version, or asks for what needs all rows at once.
    """
    _refuse_whole(spec)
    last = registry.latest(AssetKind.DATASET, spec.name)
    try:
        id = registry.resolve(AssetKind.DATASET, Reference(name=spec.name))
    except NotFoundError:
        return None
    version = registry.open(id)
    card = version.manifest.dataset
    if card is None or not any(entry.path == STATE_FILE for entry in version.manifest.files):
        raise RequestError(f"{id} was not made by this version of `lightmill ingest`; leave out `append` once.")
    state = IngestState.model_validate_json(version.read_file(STATE_FILE))
    now = declared(spec)
    changed = [name for name in _SAME if now[name] != state.declared.get(name)]
    if changed:
        raise RequestError(
            f"`{changed[0]}` is not as it was for {id}, and rows of before would not fit those that are appended. "
            "Leave out `append` to ingest all files anew."
        )
    return Base(version=version, last=last, card=card, state=state)


def _refuse_whole(spec: DatasetSpec) -> None:
    """Refuse what compares rows with all others: those of before are not read again."""
    unique = [name for column in spec.columns if column.unique for name in column.names()]
    what = (
        f"column {unique[0]!r} is `unique`"
        if unique
        else "rules.duplicates is not 'keep'"
        if spec.rules.duplicates != "keep"
        else "`prepare` has a `deduplicate` step"
        if any(step.step == "deduplicate" for step in spec.prepare)
        else ""
    )
    if what:
        raise RequestError(
            f"`append` does not read the rows of before again, and {what}, which compares rows with all others. "
            "Leave that out (rules.duplicates: keep), or ingest all files anew without `append`."
        )
