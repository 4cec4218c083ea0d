"""Fitted preparation: what a fit on the training split found, carried as JSON from ingest to serving, never pickled.

A step that learns nothing is its own fitted form.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, model_validator

from lightmill.records.base import Record
from lightmill.records.preparation import (
    Augment,
    Category,
    Deduplicate,
    Derive,
    Features,
    Filter,
    ImageDecode,
    ImageResize,
    Pack,
    Python,
    TextNormalize,
    Tokenize,
)
from lightmill.records.signature import Preprocessing

CHANGES_ROWS = ("filter", "deduplicate", "pack")
RecordT = TypeVar("RecordT", bound=Record)


class FittedImpute(Record):
    """Missing values of `columns[i]` become `values[i]`; with `indicator` a bool column says where."""

    step: Literal["impute"] = "impute"
    columns: tuple[str, ...]
    values: tuple[float | int | str | bool, ...]
    indicator: bool = False

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        return _same_length(self, self.columns, self.values)


class FittedClip(Record):
    """`columns[i]` is moved into [`minimum[i]`, `maximum[i]`]; None is no limit."""

    step: Literal["clip"] = "clip"
    columns: tuple[str, ...]
    minimum: tuple[float | None, ...]
    maximum: tuple[float | None, ...]

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        return _same_length(self, self.columns, self.minimum, self.maximum)


class FittedStandardize(Record):
    """`columns[i]` becomes (x - mean[i]) / scale[i] in float64, given as float32."""

    step: Literal["standardize"] = "standardize"
    columns: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if 0.0 in self.scale:
            raise ValueError(f"scale is 0 for column {self.columns[self.scale.index(0.0)]!r}; a constant keeps 1")
        return _same_length(self, self.columns, self.mean, self.scale)


class FittedMinMax(Record):
    """`columns[i]` becomes low + (x - minimum[i]) / range[i] * (high - low) in float64, given as float32."""

    step: Literal["min_max"] = "min_max"
    columns: tuple[str, ...]
    minimum: tuple[float, ...]
    range: tuple[float, ...]
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if 0.0 in self.range:
            raise ValueError(f"range is 0 for column {self.columns[self.range.index(0.0)]!r}; a constant keeps 1")
        return _same_length(self, self.columns, self.minimum, self.range)


class FittedOneHot(Record):
    """`columns[i]` becomes float32 [len(categories[i]) (+ 1 for `other`)]."""

    step: Literal["one_hot"] = "one_hot"
    columns: tuple[str, ...]
    categories: tuple[tuple[Category, ...], ...]
    unknown: Literal["zeros", "other", "error"] = "zeros"

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        return _same_length(self, self.columns, self.categories)


class FittedOrdinal(Record):
    """`columns[i]` becomes the place of its value in `categories[i]`, int64."""

    step: Literal["ordinal"] = "ordinal"
    columns: tuple[str, ...]
    categories: tuple[tuple[Category, ...], ...]
    unknown: Literal["other", "error"] = "other"

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        return _same_length(self, self.columns, self.categories)


class FittedTokenize(Record):
    """A tokenizer by digest, and by value unless `text` is left out to be kept once elsewhere.

    `sha256` is of the file's bytes, `text` the file as UTF-8; `declared` says how it is applied.
    """

    step: Literal["tokenize"] = "tokenize"
    declared: Tokenize
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    pad_id: int = Field(ge=0, lt=1 << 31)
    text: str | None = Field(default=None, repr=False)


class FittedDeduplicate(Record):
    """The comparison that was made, and how many rows it found to leave out; new rows are compared with none."""

    step: Literal["deduplicate"] = "deduplicate"
    declared: Deduplicate
    duplicates: int = Field(ge=0)


FittedStep = Annotated[
    FittedImpute
    | FittedClip
    | FittedStandardize
    | FittedMinMax
    | FittedOneHot
    | FittedOrdinal
    | FittedTokenize
    | FittedDeduplicate
    | TextNormalize
    | Pack
    | ImageDecode
    | ImageResize
    | Augment
    | Filter
    | Derive
    | Python
    | Features,
    Field(discriminator="step"),
]


class FittedPreparation(Record):
    """Fitted steps in the order in which they apply."""

    format: Literal[1] = 1
    steps: tuple[FittedStep, ...] = ()

    @classmethod
    def of(cls, preprocessing: Preprocessing, columns: tuple[str, ...]) -> FittedPreparation:
        """Return an older `Preprocessing` of the feature `columns` in this form.

        Raises:
            ValueError: The preprocessing has another number of columns.
        """
        return cls(
            steps=tuple(
                FittedStandardize(columns=columns, mean=step.mean, scale=step.scale) for step in preprocessing.steps
            )
        )

    @property
    def portable(self) -> bool:
        """Whether every step applies wherever Lightmill is installed: there is no `python` step."""
        return all(step.step != "python" for step in self.steps)

    def per_row(self) -> FittedPreparation:
        """Return the steps that give one row for each row, without augmentation: what serving applies."""
        kept = tuple(step for step in self.steps if step.step not in (*CHANGES_ROWS, "augment"))
        return self.model_copy(update={"steps": kept})

    def divided(self) -> tuple[FittedPreparation, FittedPreparation]:
        """Return the steps before the first `augment`, and those from it on.

        The first part is applied once at ingest; the second in each epoch, when rows go to a training worker.
        """
        names = [step.step for step in self.steps]
        place = names.index("augment") if "augment" in names else len(names)
        return (
            self.model_copy(update={"steps": self.steps[:place]}),
            self.model_copy(update={"steps": self.steps[place:]}),
        )


class InputColumn(Record):
    """A column as it comes in: its name, its declared dtype, and the shape of a tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None = None


class TabularPreparation(Record):
    """From rows of named columns to features float32 [width]: what serving and batch inference apply."""

    columns: tuple[InputColumn, ...]
    fitted: FittedPreparation
    width: int = Field(ge=1)


class TokenPreparation(Record):
    """Token ids that language models train on: `column` holds int32 [length] in each row.

    `segments` names the column of the same shape that tells documents apart: 1, 2, ... for those in a row and 0 for
    padding, or 1 for a token and 0 for padding; None where nothing says which ids are padding. `vocabulary` is one more
    than the largest id, None where no tokenizer says. `columns` and `fitted` lead from text to ids, without packing.
    """

    column: str
    length: int = Field(ge=1)
    segments: str | None = None
    vocabulary: int | None = Field(default=None, ge=1)
    columns: tuple[InputColumn, ...] = ()
    fitted: FittedPreparation = FittedPreparation()


class StoredColumn(Record):
    """A column that waits in the files for the rest of its preparation.

    `name` is what the steps call it and `stored` its name in the files; `shape` is that of a tensor.
    """

    name: str
    stored: str
    shape: tuple[int, ...] | None = None


class TrainingPreparation(Record):
    """The steps from the first `augment` on, which apply whenever rows are read, and augment rows of training only.

    `makes` are the columns that they lead to.
    """

    columns: tuple[StoredColumn, ...]
    fitted: FittedPreparation
    makes: tuple[str, ...]


def _same_length(record: RecordT, columns: tuple[str, ...], *others: tuple[object, ...]) -> RecordT:
    for other in others:
        if len(other) != len(columns):
            raise ValueError(f"{len(columns)} columns but {len(other)} fitted values")
    return record
