"""`dataset.yaml`: where rows come from, what they must hold, what is hidden, how they are split and prepared."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from lightmill.errors import RequestError
from lightmill.records.base import Record
from lightmill.records.masking import MaskingPolicy, parse_policy_reference
from lightmill.records.preparation import Step
from lightmill.records.quality import FLOATS, INTEGERS, ColumnRule, ExpectSpec, RulesSpec
from lightmill.records.references import check_name
from lightmill.records.sources import CombineSpec, FilesSpec, JoinSpec, SourceSpec, UnionSpec
from lightmill.records.specs import Spec
from lightmill.records.splitting import AnySplit, StratifiedSplit

RESERVED_COLUMNS = {"row_id", "label", "features", "split"}
FEATURE_ROLES = ("feature", "image")
NUMBERS = (*INTEGERS, *FLOATS, "bool")
BY_COLUMN = ("impute", "clip", "standardize", "min_max", "one_hot", "ordinal", "text_normalize")
KEEPS_WIDTH = ("impute", "clip", "standardize", "min_max", "filter", "deduplicate", "augment")


PolicyOrName = Annotated[
    Annotated[MaskingPolicy, Tag("policy")] | Annotated[str, Tag("name")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "policy"),
]
"""A masking policy written out, or `name@2` of one that the platform keeps."""


class FeaturesSpec(Record):
    """The tensor that the prepared feature columns form, in the order of the columns; by default as wide as they are.

    `name` is what a model's input is called where all of it are numbers that preparation keeps in their places.
    """

    name: str = "features"
    shape: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(default=None, min_length=1)


class DatasetSpec(Spec):
    """A source or several, their declared schema, and how to check, mask, split and prepare the rows.

    A preparation step by column that names no columns takes all feature columns. With `append` only files that the
    newest version has not read are read, and added to it; see `datasets.appending`.
    """

    name: str
    description: str = ""
    licence: str = ""
    source: SourceSpec | None = None
    sources: tuple[SourceSpec, ...] = ()
    combine: CombineSpec = UnionSpec()
    features: FeaturesSpec = FeaturesSpec()
    columns: tuple[ColumnRule, ...] = Field(min_length=1)
    rules: RulesSpec = RulesSpec()
    expect: ExpectSpec = ExpectSpec()
    masking: PolicyOrName | None = None
    split: AnySplit = StratifiedSplit()
    prepare: tuple[Step, ...] = ()
    keep_source_columns: bool = True
    append: bool = False

    @model_validator(mode="before")
    @classmethod
    def _columns_of_steps(cls, value: Any) -> Any:
        """Give steps without columns all feature columns."""
        if not isinstance(value, dict) or not isinstance(value.get("prepare"), list | tuple):
            return value
        columns = value.get("columns")
        names = [
            column.get("name")
            for column in (columns if isinstance(columns, list | tuple) else ())
            if isinstance(column, dict) and column.get("role", "feature") == "feature"
        ]
        filled = [
            {**step, "columns": names}
            if isinstance(step, dict) and step.get("step") in BY_COLUMN and "columns" not in step and names
            else step
            for step in value["prepare"]
        ]
        return {**value, "prepare": filled}

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value, "dataset")

    @field_validator("masking")
    @classmethod
    def _masking(cls, value: MaskingPolicy | str | None) -> MaskingPolicy | str | None:
        return str(parse_policy_reference(value)) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.source is None) == (not self.sources):
            raise ValueError("give `source` for one source, or `sources` for several")
        names = [name for column in self.columns for name in column.names()]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise ValueError(f"columns {twice} are declared twice")
        own = {"label"} & set(self.label_columns())  # a label may well be called so
        reserved = sorted((RESERVED_COLUMNS - own) & set(names))
        if reserved:
            raise ValueError(f"column names {reserved} are reserved; rename them in the source")
        odd = [name for name in names if set(name) & set(";:,")]
        if odd:
            raise ValueError(f"column name {odd[0]!r} holds one of ';:,', which encrypted Parquet cannot; rename it")
        if isinstance(self.combine, JoinSpec) and self.combine.many:
            raise ValueError("combine.many gives rows without ids of their own; join to one row each")
        self._check_steps(set(names))
        self._check_features()
        self._check_label()
        return self

    def _check_label(self) -> None:
        labels = self.label_columns()
        if len(labels) > 1:
            raise ValueError(f"at most one column has role 'label'; found {list(labels)}")
        label = next((column for column in self.columns if column.role == "label"), None)
        if label is not None:
            _check_classes(label)
        if not labels and isinstance(self.split, StratifiedSplit) and self.split.column is None:
            raise ValueError("no column has role 'label', so `split` needs `by: random`, or a column to stratify by")

    def _check_steps(self, names: set[str]) -> None:
        for step in self.prepare:
            made = {getattr(step, "output", None)} | ({step.column} if step.step == "derive" else set())
            made |= {column.name for column in step.makes} if step.step == "python" else set()
            if made & RESERVED_COLUMNS:
                raise ValueError(f"step {step.step!r} makes a column {min(map(str, made))!r}, which is reserved")
        column = getattr(self.split, "column", None)
        if column is not None and column not in names:
            raise ValueError(f"split.column {column!r} is not among `columns`; declare it, with role 'ignore' at least")

    def _check_features(self) -> None:
        declared = any(step.step == "features" for step in self.prepare)
        encoded = {name for step in self.prepare for name in getattr(step, "columns", ())}
        for name, column in self._by_name():
            text = column.scalar in ("string", "date", "timestamp")
            if column.role == "feature" and text and name not in encoded and not declared:
                raise ValueError(
                    f"the feature {name!r} is {column.dtype}, and a feature must be a number; encode it in `prepare` "
                    "(one_hot, ordinal), or give it role 'ignore'"
                )
        if self.features.shape and self.plain:
            wanted, found = math.prod(self.features.shape), len(self.feature_columns())
            if wanted != found:
                raise ValueError(
                    f"features.shape {list(self.features.shape)} holds {wanted} values but {found} columns have role "
                    "'feature'"
                )

    def _by_name(self) -> list[tuple[str, ColumnRule]]:
        return [(name, column) for column in self.columns for name in column.names()]

    @property
    def plain(self) -> bool:
        """Whether the features are the feature columns, all single numbers, each prepared in its place."""
        numbers = all(
            column.container is None and column.scalar in NUMBERS
            for column in self.columns
            if column.role in FEATURE_ROLES
        )
        steps = all(step.step in KEEPS_WIDTH and not getattr(step, "indicator", False) for step in self.prepare)
        return bool(self.feature_columns()) and numbers and steps

    @property
    def policy(self) -> MaskingPolicy | None:
        """The masking policy, if there is one.

        Raises:
            RequestError: `masking` is still a name; `with_policy` puts the policy in its place.
        """
        if isinstance(self.masking, str):
            raise RequestError(f"masking {self.masking!r} is kept by a platform; ingest through it, or write it out.")
        return self.masking

    def with_policy(self, settle: Callable[[MaskingPolicy | str], MaskingPolicy]) -> Self:
        """Return the specification with its masking policy written out, as `settle` gives it."""
        return self if self.masking is None else self.model_copy(update={"masking": settle(self.masking)})

    def all_sources(self) -> tuple[SourceSpec, ...]:
        """Return the sources, in order."""
        return self.sources or ((self.source,) if self.source else ())

    def local_paths(self) -> tuple[str, ...]:
        """Return the paths of sources that are files or folders of the platform's machine, as they are written."""
        files = [source for source in self.all_sources() if isinstance(source, FilesSpec)]
        return tuple(path for source in files for path in source.paths() if "://" not in path)

    def feature_columns(self) -> tuple[str, ...]:
        """Return the names of the feature columns, in order."""
        return tuple(name for name, column in self._by_name() if column.role in FEATURE_ROLES)

    def label_columns(self) -> tuple[str, ...]:
        """Return the names of the label columns; a valid specification has one or none."""
        return tuple(name for name, column in self._by_name() if column.role == "label")

    def classes(self) -> tuple[str, ...]:
        """Return the classes as text, in the order that gives each its index."""
        label = next((column for column in self.columns if column.role == "label"), None)
        return tuple(map(_as_text, label.values or ())) if label else ()

    def kept_columns(self) -> tuple[str, ...]:
        """Return the columns that are kept beside the prepared ones, in order."""
        if not self.keep_source_columns:
            return ()
        return tuple(name for name, column in self._by_name() if column.role not in ("label", "ignore"))


def _check_classes(label: ColumnRule) -> None:
    if not label.values:
        raise ValueError(f"the label column {label.name!r} declares no `values`; list the classes in order")
    if label.container or label.scalar not in (*INTEGERS, "bool", "string"):
        raise ValueError(f"the label {label.name!r} is {label.dtype}; classes are integers, booleans or texts")
    kind = str if label.scalar == "string" else bool if label.scalar == "bool" else int
    odd = [value for value in label.values if not isinstance(value, kind) or (kind is int and isinstance(value, bool))]
    if odd and kind is not str:
        raise ValueError(f"the label {label.name!r} is {label.dtype}, but its value {odd[0]!r} is not")
    if label.max_nulls is not None:
        raise ValueError(f"the label {label.name!r} needs a value in every row; leave out max_nulls")


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
