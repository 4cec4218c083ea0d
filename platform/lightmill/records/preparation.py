"""Declared preparation steps: what `prepare` in a dataset specification asks for, in order.

A step names columns; `p{00..63}` stands for p00, p01, ... p63. Whether a step is fitted, and what a fit keeps, is in
`lightmill.records.fitted`; docs/preparation.md has one example of each.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from lightmill.records.base import Record

FAMILY_MAX = 100_000
REGEX_MAX = 1000
EXPRESSION_MAX = 10_000
CATEGORIES_MAX = 10_000
PIXELS_MAX = 178_956_970  # beyond, Pillow itself refuses
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

Category = str | int | bool
Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[int, Field(ge=1, le=16_384)]


def expand_family(name: str) -> tuple[str, ...]:
    """Return the column names that `name` stands for: itself, or the members of a numbered family.

    Raises:
        ValueError: The range falls, or holds more than 100,000 columns.
    """
    found = _RANGE.search(name)
    if not found:
        return (name,)
    first, last = found.groups()
    if not 0 <= int(last) - int(first) < FAMILY_MAX:
        raise ValueError(f"the range in {name!r} must rise and hold at most {FAMILY_MAX} columns")
    before, after = name[: found.start()], name[found.end() :]
    return tuple(f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1))


def _expand(names: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(member for name in names for member in expand_family(name))
    twice = sorted({name for name in found if found.count(name) > 1}) if len(set(found)) < len(found) else []
    if twice:
        raise ValueError(f"columns {twice} are named twice")
    return found


Columns = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1), AfterValidator(_expand)]


class Impute(Record):
    """Fill missing values (NULL and NaN). `value` is for `with: constant`; `indicator` adds `<column>_missing`."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    step: Literal["impute"] = "impute"
    columns: Columns
    method: Literal["mean", "median", "most_frequent", "constant"] = Field(alias="with")
    value: float | int | str | bool | None = None
    indicator: bool = False

    @model_validator(mode="after")
    def _value_with_constant(self) -> Self:
        if (self.method == "constant") != (self.value is not None):
            raise ValueError(f"`value` belongs to `with: constant`; with is {self.method!r}, value {self.value!r}")
        return self


class Clip(Record):
    """Move numbers into fixed limits, or into limits at quantiles of the training split."""

    step: Literal["clip"] = "clip"
    columns: Columns
    minimum: float | None = None
    maximum: float | None = None
    lower_quantile: Share | None = None
    upper_quantile: Share | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        fixed = (self.minimum, self.maximum)
        shares = (self.lower_quantile, self.upper_quantile)
        if (fixed == (None, None)) == (shares == (None, None)):
            raise ValueError("give minimum and maximum, or lower_quantile and upper_quantile (one of a pair will do)")
        for low, high in (fixed, shares):
            if low is not None and high is not None and low > high:
                raise ValueError(f"the lower limit {low:g} is more than the upper one {high:g}")
        return self


class Standardize(Record):
    """Subtract the mean and divide by the population standard deviation; a constant column becomes 0."""

    step: Literal["standardize"] = "standardize"
    columns: Columns


class MinMax(Record):
    """Map the range of the training split to [`low`, `high`]; a constant column becomes `low`."""

    step: Literal["min_max"] = "min_max"
    columns: Columns
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be less than high {self.high:g}")
        return self


class _Encoding(Record):
    """What both encodings share. Categories are `values`, or those of the training split.

    Of the latter, those seen fewer than `min_count` times and those beyond the `max_categories` most frequent are
    unknown. `unknown: error` refuses a table with an unknown category.
    """

    columns: Columns
    values: tuple[Category, ...] | None = Field(default=None, min_length=1, max_length=CATEGORIES_MAX)
    max_categories: int = Field(default=256, ge=1, le=CATEGORIES_MAX)
    min_count: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _different_values(self) -> Self:
        if self.values and len(set(map(repr, self.values))) < len(self.values):
            raise ValueError("`values` holds one of them twice")
        if self.values and len({type(value) for value in self.values}) > 1:
            raise ValueError("`values` mixes types; give all strings, all integers or all booleans")
        return self


class OneHot(_Encoding):
    """Replace a category by float32 [categories] with a 1 at its place.

    `other` adds a last place for unknown categories; without it they are all zeros, and so is NULL in both cases.
    """

    step: Literal["one_hot"] = "one_hot"
    unknown: Literal["zeros", "other", "error"] = "zeros"


class Ordinal(_Encoding):
    """Replace a category by its place, int64; unknown ones by the number of categories; NULL stays NULL."""

    step: Literal["ordinal"] = "ordinal"
    unknown: Literal["other", "error"] = "other"


class Replacement(Record):
    """A regular expression in RE2 syntax (linear time, no look-around) and what replaces each match."""

    pattern: str = Field(min_length=1, max_length=REGEX_MAX)
    replacement: str = Field(default="", max_length=REGEX_MAX)


class TextNormalize(Record):
    """Normalize text: Unicode form, lower case, accents, then `replace` in order, then white space."""

    step: Literal["text_normalize"] = "text_normalize"
    columns: Columns
    unicode: Literal["NFC", "NFKC", "NFD", "NFKD"] | None = "NFKC"
    lower: bool = False
    strip_accents: bool = False
    replace: tuple[Replacement, ...] = Field(default=(), max_length=100)
    whitespace: bool = True


class Tokenize(Record):
    """Turn text into token ids with a `tokenizers` JSON file, which the fitted record takes along by value.

    With `length`, ids are int32 [length], cut and padded; without, a list of any length. `mask` adds
    `<output>_mask`, uint8 of the same shape, 1 where a token is.
    """

    step: Literal["tokenize"] = "tokenize"
    column: str = Field(min_length=1)
    file: str = Field(min_length=1)
    output: str = Field(default="tokens", min_length=1)
    length: int | None = Field(default=None, ge=1, le=1 << 20)
    truncate: Literal["right", "left"] = "right"
    pad: Literal["right", "left"] = "right"
    pad_id: int | None = Field(default=None, ge=0, lt=1 << 31)
    special_tokens: bool = True
    mask: bool = False

    @model_validator(mode="after")
    def _mask_needs_length(self) -> Self:
        if self.mask and self.length is None:
            raise ValueError("`mask` marks padding, which only a fixed `length` makes; give `length`")
        return self


class Pack(Record):
    """Join token ids of consecutive rows into sequences of fixed length, with a separator after each row.

    The rows that come out have `<column>` int32 [length], `<column>_segments` int32 [length] (1, 2, ... for the rows
    in a sequence, 0 for padding) and the `row_id` of their first token. `remainder` is what happens to a last
    sequence that is not full.
    """

    step: Literal["pack"] = "pack"
    column: str = Field(default="tokens", min_length=1)
    length: int = Field(ge=2, le=1 << 20)
    separator: int | None = Field(default=None, ge=0, lt=1 << 31)
    pad_id: int = Field(default=0, ge=0, lt=1 << 31)
    remainder: Literal["pad", "drop"] = "pad"


class ImageDecode(Record):
    """Decode images, given as bytes or as paths below a root, into pixels. A null image stays null.

    An image of more than `max_pixels` is refused from its header, before it is decoded. The orientation that EXIF
    states is applied, and of an animation the first frame is taken.
    """

    step: Literal["image_decode"] = "image_decode"
    column: str = Field(min_length=1)
    source: Literal["bytes", "path"] = "bytes"
    mode: Literal["L", "RGB", "RGBA"] = "RGB"
    max_pixels: int = Field(default=50_000_000, ge=1, le=PIXELS_MAX)
    max_bytes: int = Field(default=64 << 20, ge=1, le=1 << 30)
    on_error: Literal["fail", "null"] = "fail"


class ImageResize(Record):
    """Resize decoded images to a tensor [height, width, channels]: uint8, or float32 in 0 ... 1.

    `fit` says what happens to the sides' ratio: `stretch` changes it, `cover` cuts, `contain` adds black.
    """

    step: Literal["image_resize"] = "image_resize"
    column: str = Field(min_length=1)
    height: Size
    width: Size
    fit: Literal["stretch", "cover", "contain"] = "stretch"
    filter: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    dtype: Literal["uint8", "float32"] = "uint8"


class Flip(Record):
    """Mirror an image tensor left to right or top to bottom, with a probability."""

    op: Literal["flip"] = "flip"
    axis: Literal["horizontal", "vertical"] = "horizontal"
    probability: Share = 0.5


class Crop(Record):
    """Pad an image tensor with zeros on every side, then cut its old size out at a random place."""

    op: Literal["crop"] = "crop"
    padding: int = Field(ge=1, le=1024)


class Noise(Record):
    """Add normal noise to numbers or a tensor; uint8 is rounded and kept in 0 ... 255."""

    op: Literal["noise"] = "noise"
    std: float = Field(gt=0)


class TextDropout(Record):
    """Leave out each word of a text with a probability, but never all of them."""

    op: Literal["text_dropout"] = "text_dropout"
    probability: float = Field(gt=0, lt=1)


Operation = Annotated[Flip | Crop | Noise | TextDropout, Field(discriminator="op")]


class Augment(Record):
    """Change training rows at random; the change depends on `seed`, the epoch and the row id alone."""

    step: Literal["augment"] = "augment"
    columns: Columns
    operations: tuple[Operation, ...] = Field(min_length=1, max_length=20)
    seed: int = Field(default=0, ge=0, lt=1 << 63)


class Filter(Record):
    """Keep the rows for which `where`, an expression, is true; where it is false or NULL the row goes."""

    step: Literal["filter"] = "filter"
    where: str = Field(min_length=1, max_length=EXPRESSION_MAX)


class Derive(Record):
    """Add or replace the column `column` by the value of an expression."""

    step: Literal["derive"] = "derive"
    column: str = Field(min_length=1)
    value: str = Field(min_length=1, max_length=EXPRESSION_MAX)


class Deduplicate(Record):
    """Keep of each group of equal or alike rows the one with the smallest row id.

    `exact` compares all `columns`; `near_text` one text column, by the Jaccard similarity of its sets of `shingle`
    consecutive characters, as MinHash with `hashes` functions estimates it.
    """

    step: Literal["deduplicate"] = "deduplicate"
    columns: Columns
    how: Literal["exact", "near_text"] = "exact"
    threshold: float = Field(default=0.8, gt=0, le=1)
    hashes: int = Field(default=128, ge=16, le=1024)
    shingle: int = Field(default=5, ge=1, le=32)
    seed: int = Field(default=0, ge=0, lt=1 << 63)

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if self.how == "near_text" and len(self.columns) != 1:
            raise ValueError(f"near_text compares one text column, but columns names {len(self.columns)}")
        return self


class MadeColumn(Record):
    """A column that a function makes: its name, its type, and the shape of a tensor of numbers."""

    name: str = Field(min_length=1)
    dtype: Literal[
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float32",
        "float64",
        "string",
        "binary",
    ]
    shape: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _tensors_of_numbers(self) -> Self:
        if self.shape and self.dtype in ("bool", "string", "binary"):
            raise ValueError(f"`shape` is for tensors of numbers, but {self.name!r} is {self.dtype}; leave it out")
        return self


class Python(Record):
    """Call a function, `package.module:function`, with a table of `columns`; it gives a table of the columns `makes`.

    The function treats each row by itself: it gives as many rows in the same order, and takes tables of any number of
    rows, none included. A preparation with such a step is not portable: it applies only where the function can be
    imported and is allowed.
    """

    step: Literal["python"] = "python"
    function: str
    columns: Columns
    makes: tuple[MadeColumn, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _path(self) -> Self:
        if not _FUNCTION.fullmatch(self.function):
            raise ValueError(f"function {self.function!r} must look like 'package.module:function'")
        names = [column.name for column in self.makes]
        if len(set(names)) < len(names) or "row_id" in names:
            raise ValueError(f"`makes` names {names}; name each column once, and not row_id")
        return self


class Features(Record):
    """Put columns side by side, in order, into one float32 tensor of `shape` (by default as wide as they are).

    A column is a number, a boolean or a tensor, which takes as many places as it has values.
    """

    step: Literal["features"] = "features"
    columns: Columns
    name: str = Field(default="features", min_length=1)
    shape: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(default=None, min_length=1)
    keep: bool = True

    def width(self) -> int | None:
        """Return the number of values of `shape`, or None where the columns decide."""
        return math.prod(self.shape) if self.shape else None


Step = Annotated[
    Impute
    | Clip
    | Standardize
    | MinMax
    | OneHot
    | Ordinal
    | TextNormalize
    | Tokenize
    | Pack
    | ImageDecode
    | ImageResize
    | Augment
    | Filter
    | Derive
    | Deduplicate
    | Python
    | Features,
    Field(discriminator="step"),
]
