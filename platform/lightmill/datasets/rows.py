"""From a block of a source to judged and masked rows: how every pass over the data begins. It pickles small."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from lightmill.datasets.columns import ROW_ID
from lightmill.datasets.conversion import arrow_type
from lightmill.datasets.expectations import Judge, Judgement
from lightmill.datasets.sources.blocks import BAD, check_names
from lightmill.datasets.sources.combine import combine
from lightmill.datasets.sources.opening import open_source
from lightmill.datasets.sources.port import ROW_BITS, BadRow, Part, Source
from lightmill.datasets.splitting import needs
from lightmill.errors import RequestError
from lightmill.masking import Masker
from lightmill.models.preparation.expressions import columns_in, parse
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.masking import MaskingReport
from lightmill.records.preparation import Derive, Filter
from lightmill.records.quality import ColumnRule
from lightmill.records.sources import JoinSpec, UnionSpec
from lightmill.registry import RegistryLocation


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A source that was opened once, for as many passes as are needed."""

    source: Source
    parts: tuple[Part, ...]

    def locate(self, row_id: int) -> tuple[str, int]:
        """Return the file of a row and its number there, from 1."""
        return self._names.get(row_id >> ROW_BITS, "the source"), (row_id & ((1 << ROW_BITS) - 1)) + 1

    @cached_property
    def _names(self) -> dict[int, str]:
        return {part.file: part.path for part in self.parts}


def open_blocks(spec: DatasetSpec, folder: Path) -> Blocks:
    """Open the sources of a specification.

    Raises:
        NotFoundError: There is nothing at a path.
        RequestError: A file cannot be understood, or the sources do not fit together.
        UnavailableError: A place does not answer.
    """
    used = _named(spec)
    types = {
        name: arrow_type(column)
        for column in spec.columns
        for name in column.names()
        if column.role != "ignore" or _is_checked(column) or name in used
    }
    source = combine(_opened(spec, folder, types), spec.combine)
    check_names(source)
    return Blocks(source=source, parts=tuple(source.parts()))


def _opened(spec: DatasetSpec, folder: Path, types: dict[str, pa.DataType]) -> list[Source]:
    """Open each source for the declared columns; where they have different ones, for those that it has.

    Raises:
        RequestError: No source has a declared column.
    """
    sources = spec.all_sources()
    joined = isinstance(spec.combine, JoinSpec)
    if len(sources) < 2 or not (joined or (isinstance(spec.combine, UnionSpec) and spec.combine.fill_nulls)):
        return [open_source(one, folder, types) for one in sources]
    schemas = [open_source(one, folder).schema() for one in sources]
    missing = [name for name in types if not any(name in schema.names for schema in schemas)]
    if missing:
        raise RequestError(f"No source has the column {missing[0]!r}. Correct `columns` in the specification.")
    keys = set(spec.combine.on) if isinstance(spec.combine, JoinSpec) else set()
    return [
        open_source(
            one,
            folder,
            {field.name: types.get(field.name, field.type) for field in schema if field.name in keys | set(types)},
        )
        for one, schema in zip(sources, schemas, strict=True)
    ]


def _is_checked(column: ColumnRule) -> bool:
    """Whether the declaration asks something of the values of an ignored column."""
    limits = (column.minimum, column.maximum, column.values, column.pattern, column.max_length, column.max_nulls)
    return column.unique or any(limit is not None for limit in limits)


def _named(spec: DatasetSpec) -> set[str]:
    """Return the columns that the split, an expectation, a step or a masking rule names."""
    found = {*needs(spec.split), *spec.expect.columns}
    for step in spec.prepare:
        found |= {*getattr(step, "columns", ()), getattr(step, "column", "")}
        if isinstance(step, Filter | Derive):
            found |= columns_in(parse(step.where if isinstance(step, Filter) else step.value)) or set()
    rules = spec.policy.rules if spec.policy else ()
    return found | {name.partition(".")[0] for rule in rules for name in rule.columns}


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedBlock:
    """`source` are the rows that were read, as they were; `judgement` is of them; `bad` could not be read."""

    source: pa.Table
    judgement: Judgement
    bad: tuple[BadRow, ...]


class RowReader:
    """Judges blocks and masks rows, in whichever process it is unpickled."""

    def __init__(self, spec: DatasetSpec, location: RegistryLocation) -> None:
        self._spec = spec
        self._location = location
        self._judge = Judge(spec.columns, spec.rules, spec.expect)
        self._masker: Masker | None = None
        self._text_masker: Masker | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_masker": None, "_text_masker": None}

    @property
    def schema(self) -> pa.Schema:
        """Return the declared columns as they are after masking."""
        masker = self._whole_masker()
        return masker.schema(self._judge.schema) if masker else self._judge.schema

    @property
    def null_limits(self) -> dict[str, float]:
        """Return `max_nulls` by column name, where it is declared."""
        return self._judge.null_limits

    def judged(self, block: pa.Table) -> JudgedBlock:
        """Judge the rows of a block."""
        told = block.column(BAD)
        bad = tuple(BadRow.model_validate_json(text) for text in told.drop_null().to_pylist())
        source = block.drop_columns([BAD])
        if bad:
            source = source.filter(compute.is_null(told))  # pyright: ignore[reportAttributeAccessIssue]
        return JudgedBlock(source=source, judgement=self._judge.judge(source), bad=bad)

    def masked(self, table: pa.Table, row_id: npt.NDArray[np.int64]) -> tuple[pa.Table, MaskingReport | None]:
        """Return declared columns with the policy applied, and what it did."""
        masker = self._whole_masker()
        return masker.apply(table, row_id) if masker else (table, None)

    def masked_aside(self, table: pa.Table) -> pa.Table:
        """Return quarantined rows, all text, with nothing in them that the policy hides.

        Columns that the policy treats as a whole show `[masked]`; elsewhere what its detectors find is masked.
        """
        policy = self._spec.policy
        if policy is None:
            return table
        hidden = self._hidden_columns()
        free = self._free_masker()
        columns: list[pa.ChunkedArray] = []
        for name, column in zip(table.column_names, table.columns, strict=True):
            if name in hidden or name == "quarantine_text":
                covered = [None if value is None else "[masked]" for value in column.to_pylist()]
                columns.append(pa.chunked_array([pa.array(covered, type=pa.string())]))
            elif free is not None and not name.startswith("quarantine_") and name != ROW_ID:
                columns.append(free.apply(pa.table({name: column}))[0].column(0))
            else:
                columns.append(column)
        return pa.Table.from_arrays(columns, names=table.column_names)

    def _hidden_columns(self) -> set[str]:
        policy = self._spec.policy
        rules = policy.rules if policy else ()
        names = {name.partition(".")[0] for rule in rules for name in rule.columns}
        tags = {tag for rule in rules for tag in rule.tags}
        declared = [(name, column) for column in self._spec.columns for name in column.names()]
        if "*" in names:
            return {name for name, _ in declared}
        return names | {name for name, column in declared if tags & set(column.tags)}

    def check_masking(self) -> None:
        """Refuse a policy that a model could not be served behind.

        Raises:
            RequestError: It changes a feature, image, text or label column as a whole, otherwise than by noise.
        """
        policy = self._spec.policy
        for rule in policy.rules if policy else ():
            if rule.detectors or rule.action in ("keep", "noise"):
                continue
            for column in self._spec.columns:
                named = "*" in rule.columns or set(rule.columns) & set(column.names())
                hit = named or set(rule.tags) & set(column.tags)
                if hit and column.role in ("feature", "image", "text", "label"):
                    raise RequestError(
                        f"masking changes column {column.name!r}, which has role {column.role!r}: what a model is "
                        "given later would not be masked. Give the column role 'key' or 'ignore', or use noise."
                    )

    def _whole_masker(self) -> Masker | None:
        policy = self._spec.policy
        if policy is None:
            return None
        if self._masker is None:
            self._masker = Masker(policy, self._key(), tags=self._tags())
        return self._masker

    def _free_masker(self) -> Masker | None:
        policy = self._spec.policy
        if policy is None:
            return None
        free = tuple(rule for rule in policy.rules if not rule.columns and not rule.tags)
        if self._text_masker is None and free:
            self._text_masker = Masker(policy.model_copy(update={"rules": free}), self._key(), tags=self._tags())
        return self._text_masker

    def _tags(self) -> dict[str, tuple[str, ...]]:
        return {name: column.tags for column in self._spec.columns if column.tags for name in column.names()}

    def _key(self) -> bytes:
        registry = self._location.open()
        return registry.keyring.masking_key(self._location.workspace)
