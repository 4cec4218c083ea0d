"""Ingestion: source rows in, one new immutable dataset version out.

Passes over the source: judge every row, and find from what that leaves duplicates and splits; fit the preparation on
the training split, stage by stage, and profile; prepare and seal. Each reads the source anew and streams. What each
has finished is in a journal, so that a job that was killed goes on where it was.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import ray
from pydantic import TypeAdapter

from lightmill.datasets.appending import STATE_FILE, Base, IngestState, declared, find_base
from lightmill.datasets.carried import STORED, token_preparation, training_preparation
from lightmill.datasets.columns import FEATURES
from lightmill.datasets.content import dataset_digest
from lightmill.datasets.judging import Judged, KeptRows, judge
from lightmill.datasets.measuring import Measured, measure
from lightmill.datasets.passes import Passes
from lightmill.datasets.preparing import Prepare, in_place, with_features
from lightmill.datasets.profile_state import PROFILE_STATE_FILE, dump_part
from lightmill.datasets.progress import Meter, Report
from lightmill.datasets.quarantine import PREFIX
from lightmill.datasets.rows import Blocks, RowReader, open_blocks
from lightmill.datasets.sealed import QUARANTINE, SealedRows, SealTask
from lightmill.datasets.sources.blocks import task_groups
from lightmill.datasets.splitting import refuse_empty
from lightmill.datasets.summary import summarized
from lightmill.datasets.translate import user_errors
from lightmill.datasets.workplace import Workplace, identity, workplace
from lightmill.errors import RequestError
from lightmill.models.preparation.applying import Preparation, Resources
from lightmill.models.preparation.functions import check_functions
from lightmill.models.preparation.stages import Found, check_order
from lightmill.records.assets import DatasetCard, FileEntry, Provenance, SourceFile, VersionSummary
from lightmill.records.dataset_spec import FEATURE_ROLES, DatasetSpec
from lightmill.records.fitted import (
    FittedPreparation,
    InputColumn,
    TabularPreparation,
    TokenPreparation,
    TrainingPreparation,
)
from lightmill.records.profile import PROFILE_FILE
from lightmill.records.references import AssetKind
from lightmill.records.signature import Preprocessing, TensorSpec
from lightmill.records.splitting import SPLITS
from lightmill.registry import Content, Registry, RegistryLocation
from lightmill.registry.summary import summarize

SEAL = "seal"
_SOURCES: TypeAdapter[tuple[SourceFile, ...]] = TypeAdapter(tuple[SourceFile, ...])


def ingest(
    spec: DatasetSpec,
    folder: Path,
    registry: Registry,
    location: RegistryLocation,
    provenance: Provenance,
    report: Report,
    work_folder: Path | None = None,
    *,
    allow_python: bool = False,
) -> VersionSummary:
    """Read, check, mask, split, prepare and seal the rows of a specification; return the new version.

    Args:
        spec: What to do.
        folder: Where relative paths begin.
        registry: Where the version goes.
        location: The same for Ray's workers.
        provenance: What the version records of who made it.
        report: Hears how far it is.
        work_folder: Where what is finished is kept until the end; a job that was killed goes on if it runs again with
            the same specification, source and folder. None keeps nothing.
        allow_python: Whether `python` steps may call functions.

    With `append`, and no file that the newest version has not read, that version is returned.

    Raises:
        NotFoundError: There is nothing at a path.
        RequestError: The source breaks the declared schema where a rule says `fail`, an expectation is not met, a step
            does not fit the rows, or a split is empty.
        ConflictError: Another job does the same now.
        UnavailableError: A place does not answer.
    """
    check_order(spec.prepare)
    resources = Resources(root=folder, allow_python=allow_python)
    check_functions(spec.prepare, allowed=allow_python)
    reader = RowReader(spec, location)
    reader.check_masking()
    blocks = open_blocks(spec, folder)
    base = find_base(spec, registry) if spec.append else None
    if base:
        blocks = base.select(blocks)
        if not blocks.parts:
            return summarize(base.version.id, registry.mid(AssetKind.DATASET, spec.name), base.version.manifest)
    name = identity(spec, folder, blocks.source, registry, str(base.version.id.digest) if base else "")
    with user_errors(), workplace(registry, spec, name, work_folder) as place:
        job = _Ingestion(spec, folder, resources, location, reader, blocks, base, place, report)
        content = job.content(provenance)
        return registry.commit(place.draft, content, after=base.last if base else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sealed:
    """What was sealed, in the order of tasks, and how rows are prepared for serving."""

    rows: SealedRows
    preprocessing: Preprocessing | None
    preparation: TabularPreparation | None
    tokens: TokenPreparation | None
    training: TrainingPreparation | None
    width: int


class _Ingestion:
    """One run over the passes."""

    def __init__(
        self,
        spec: DatasetSpec,
        folder: Path,
        resources: Resources,
        location: RegistryLocation,
        reader: RowReader,
        blocks: Blocks,
        base: Base | None,
        place: Workplace,
        report: Report,
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._resources = resources
        self._location = location
        self._reader = reader
        self._blocks = blocks
        self._base = base
        self._place = place
        self._report = report
        self._groups = task_groups(blocks.parts)
        self._passes = Passes(blocks.source, self._groups, place.journal)

    def content(self, provenance: Provenance) -> Content:
        """Run the passes; return what to commit."""
        with ThreadPoolExecutor(1) as beside:
            digests = beside.submit(self._blocks.source.describe) if not self._has_sources() else None
            judged = self._judged()
            sources = self._sources(digests)
        kept = KeptRows(self._reader, self._spec, judged)
        known = self._base.state.found if self._base else None
        measured = measure(
            self._passes,
            kept,
            self._spec,
            self._folder,
            self._resources,
            lambda: self._meter("fit and profile", judged.kept),
            known,
        )
        if self._base is None:
            refuse_empty(measured.part.splits)
        sealed = self._sealed(kept, measured.found, judged.kept)
        return self._content(provenance, sources, judged, measured, sealed)

    def _meter(self, phase: str, rows: int = 0) -> Meter:
        return Meter(self._report, phase, rows=rows, size_bytes=self._passes.size_bytes)

    def _has_sources(self) -> bool:
        return self._place.journal.has("sources", 0)

    def _sources(self, digests: Future[tuple[SourceFile, ...]] | None) -> tuple[SourceFile, ...]:
        """Return the files with their digests, which are made while rows are judged, once."""
        journal = self._place.journal
        if digests is not None:
            journal.put("sources", 0, _SOURCES.dump_json(digests.result()))
        return _SOURCES.validate_json(journal.get("sources", 0))

    def _judged(self) -> Judged:
        before = self._base.state.kept if self._base else 0
        rule = self._base.state.rule if self._base else None
        return judge(self._passes, self._blocks, self._reader, self._spec, self._meter("validate"), before, rule)

    def _sealed(self, kept: KeptRows, found: Found, rows: int) -> _Sealed:
        spec = self._spec
        preprocessing = in_place(spec, found)
        fitted = with_features(spec, found.record())
        preparation = None if preprocessing is not None else _preparation(spec, self._reader, fitted, self._resources)
        fitted_now, training = training_preparation(fitted, self._reader.schema.empty_table(), self._resources)
        width = len(spec.feature_columns()) if preprocessing else preparation.width if preparation else 0
        if spec.features.shape and math.prod(spec.features.shape) != width:
            raise RequestError(f"features.shape is {list(spec.features.shape)}, but the prepared columns give {width}.")
        dropped = ray.put(dict(found.dropped))
        prepare = Prepare(kept, self._blocks, spec, preprocessing, fitted_now, dropped, training, self._resources)
        first = self._base.state.tasks if self._base else 0
        task = SealTask(self._location, self._place.draft.id, _tags(spec), prepare, first_task=first)
        meter = self._meter("seal", rows)
        total = SealedRows()
        for sealed in self._passes.run(SEAL, task, meter):
            total = total + sealed
            meter.count(sum(entry.rows or 0 for entry in sealed.files if entry.group != QUARANTINE))
        meter.finish()
        return _Sealed(
            rows=total,
            preprocessing=preprocessing,
            preparation=preparation,
            tokens=token_preparation(fitted, _inputs(spec)),
            training=training,
            width=width,
        )

    def _content(
        self,
        provenance: Provenance,
        sources: tuple[SourceFile, ...],
        judged: Judged,
        measured: Measured,
        sealed: _Sealed,
    ) -> Content:
        spec, base = self._spec, self._base
        shared, lenders = base.shared() if base else ((), ())
        files = (*shared, *sorted(sealed.rows.files, key=lambda entry: entry.path))
        _refuse_empty(files)
        summary = summarized(spec, judged, measured, sealed.rows, base)
        notes = self._place.draft.seal_files(
            {
                PROFILE_FILE: summary.record.model_dump_json().encode(),
                PROFILE_STATE_FILE: dump_part(summary.part),
                STATE_FILE: self._state(judged, measured).model_dump_json().encode(),
            }
        )
        card = DatasetCard(
            features=TensorSpec(name=spec.features.name, datatype="FP32", shape=spec.features.shape or (sealed.width,)),
            classes=spec.classes(),
            preprocessing=sealed.preprocessing or Preprocessing(),
            source_columns=spec.kept_columns(),
            sources=(*(base.card.sources if base else ()), *sources),
            profile=summary.profile,
            description=spec.description,
            licence=spec.licence,
            preparation=sealed.preparation,
            origins=base.card.origins if base else self._blocks.source.origins(),
            content_digest=dataset_digest(files),
            appended_to=base.version.id.seq if base else None,
            tokens=sealed.tokens,
            training=sealed.training,
        )
        return Content(
            files=(*files, *notes.files), blobs=notes.blobs, lenders=lenders, dataset=card, provenance=provenance
        )

    def _state(self, judged: Judged, measured: Measured) -> IngestState:
        base = self._base.state if self._base else None
        return IngestState(
            declared=declared(self._spec),
            files=(base.files if base else 0) + self._blocks.source.entries(),
            tasks=(base.tasks if base else 0) + len(self._groups),
            kept=(base.kept if base else 0) + judged.kept,
            tags=tuple(sorted(set(_tags(self._spec).values()))),
            rule=judged.rule,
            fitted=measured.found.record(),
        )


def _tags(spec: DatasetSpec) -> dict[str, str]:
    """Return the first tag of every source column that has one, and of what shows it besides.

    That is what training prepares further of it, its token ids, and the text of rows that could not be read, which may
    hold any column. Features take none.
    """
    tags = {name: column.tags[0] for column in spec.columns if column.tags for name in column.names()}
    steps = [step for step in spec.prepare if step.step == "tokenize" and step.column in tags]
    tokens = {step.output: tags[step.column] for step in steps}
    masks = {f"{name}_mask": tag for name, tag in tokens.items()}
    text = {f"{PREFIX}text": min(tags.values())} if tags else {}
    return tags | {STORED + name: tag for name, tag in tags.items()} | tokens | masks | text


def _refuse_empty(files: tuple[FileEntry, ...]) -> None:
    empty = [name for name in SPLITS if not any(entry.group == name for entry in files)]
    if empty:
        raise RequestError(
            f"After preparation the split {empty[0]!r} has no rows; change `split`, or what filters rows."
        )


def _preparation(
    spec: DatasetSpec, reader: RowReader, fitted: FittedPreparation, resources: Resources
) -> TabularPreparation | None:
    """Return what serving applies: a row of features for each row of source columns, if there are features."""
    columns = _inputs(spec)
    per_row = fitted.per_row()
    rows = reader.schema.empty_table().select([column.name for column in columns])
    found = Preparation(per_row, resources=resources).apply(rows)
    if FEATURES not in found.column_names:
        return None
    kind = found.column(FEATURES).type
    storage = kind.storage_type if isinstance(kind, pa.FixedShapeTensorType) else kind
    return TabularPreparation(columns=columns, fitted=per_row, width=storage.list_size)


def _inputs(spec: DatasetSpec) -> tuple[InputColumn, ...]:
    """Return the source columns that a model is given: features, images, and texts that a step names."""
    named = {name for step in spec.prepare for name in (*getattr(step, "columns", ()), getattr(step, "column", ""))}
    return tuple(
        InputColumn(name=name, dtype=column.dtype, shape=column.shape)
        for column in spec.columns
        for name in column.names()
        if column.role in FEATURE_ROLES or (column.role == "text" and name in named)
    )
