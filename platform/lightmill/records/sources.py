"""Where the rows of a dataset come from: one record per format, told apart by `format`.

A path is a local path (taken from the folder of the specification), a glob (`*` within a folder, `**` over
folders), a folder, or a URI that pyarrow opens (s3, gs, hdfs), or http(s) with the digest of the file. No path
holds credentials: they come from the environment, and a URL that carries some is refused without being quoted.
"""

from __future__ import annotations

import codecs
import re
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import Discriminator, Field, JsonValue, Tag, field_validator, model_validator

from lightmill.records.base import Record

MISSING_VALUES: Final = ("", "NA", "NaN", "nan", "null", "NULL", "?")
_SECRET_PARAMETER = re.compile(r"pass|pwd|secret|token|signature|credential|(^|[_-])(key|sig)$|access_?key", re.I)
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
Compression = Literal["auto", "none", "gzip", "bz2", "zstd", "lz4", "brotli"]


class Limits(Record):
    """What a source may ask of the machine that reads it; each is a defence against a bomb or an accident.

    Attributes:
        cell_bytes: The most bytes of one cell, and of one line of a text file that spans blocks of 16 MiB.
        columns: The most columns.
        depth: The deepest nesting of JSON objects and lists.
        expansion: The most decompressed bytes per compressed byte, once 64 MiB have come out.
        download_bytes: The largest file that is taken over HTTP, which is held in memory.
    """

    cell_bytes: int = Field(default=64 << 20, ge=1, le=1 << 30)
    columns: int = Field(default=10_000, ge=1, le=1_000_000)
    depth: int = Field(default=64, ge=1, le=512)
    expansion: int = Field(default=200, ge=1)
    download_bytes: int = Field(default=1 << 30, ge=1)


class FilesSpec(Record):
    """Base of the formats that are files.

    Attributes:
        path: A path, glob, folder or URI, or several of them in order.
        endpoint: `http(s)://host:port` of an S3 server that is not Amazon's.
        region: The region that S3 requests are signed for.
        sha256: The digest in hex of the one file that is fetched over HTTP(S).
        part_bytes: About how many bytes one worker reads at a time of a file that can be divided. Row ids do
            not depend on it.
    """

    path: str | tuple[str, ...]
    endpoint: str = ""
    region: str = ""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    part_bytes: int = Field(default=128 << 20, ge=1)
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _addresses(self) -> Self:
        paths = self.paths()
        if not paths or not all(paths):
            raise ValueError("path names nothing; give a file, a folder, a glob or a URI")
        for path in (*paths, self.endpoint):
            _check_no_secret(path)
        fetched = [path for path in paths if path.startswith(("http://", "https://"))]
        if fetched and (len(paths) > 1 or self.sha256 is None):
            raise ValueError("a file over HTTP is one path with its sha256; list several as several sources")
        if self.sha256 is not None and not fetched:
            raise ValueError("sha256 is for a file that is fetched over http(s); leave it out")
        return self

    def paths(self) -> tuple[str, ...]:
        """Return the paths, in order."""
        return (self.path,) if isinstance(self.path, str) else self.path


class TextFilesSpec(FilesSpec):
    """Base of the formats that are text, perhaps compressed.

    Attributes:
        encoding: A Python codec; a UTF-8 or UTF-16 byte order mark is understood whatever this says.
        compression: `auto` goes by the ending of the name.
    """

    encoding: str = "utf-8"
    compression: Compression = "auto"

    @field_validator("encoding")
    @classmethod
    def _encoding(cls, value: str) -> str:
        try:
            info = codecs.lookup(value)
            "".encode(info.name)
        except (LookupError, ValueError) as exc:
            raise ValueError(f"there is no text encoding {value[:40]!r}; write one such as utf-8 or latin-1") from exc
        return info.name


class CsvSpec(TextFilesSpec):
    """Delimited text. Columns are strings unless the dataset declares their types.

    Attributes:
        header: The names of the columns where the files have no header line.
        quoted_newlines: Cells may hold line breaks; such a file is not divided, and all of its quotes must pair up.
        null_values: The spellings of a missing value.
    """

    format: Literal["csv"] = "csv"
    delimiter: Annotated[str, Field(pattern=r"^[\x01-\x7f]$")] = ","
    quote: Annotated[str, Field(pattern=r"^[\x21-\x7e]$")] | None = '"'
    header: tuple[str, ...] | None = None
    quoted_newlines: bool = False
    null_values: tuple[str, ...] = MISSING_VALUES


class JsonlSpec(TextFilesSpec):
    """One JSON object a line. `unexpected` says what a key that is no column does to its row."""

    format: Literal["jsonl"]
    unexpected: Literal["error", "ignore"] = "error"


class ParquetSpec(FilesSpec):
    """Parquet files; a large one is divided at its row groups."""

    format: Literal["parquet"]


class ArrowSpec(FilesSpec):
    """Arrow IPC files or streams, Feather (version 2) included."""

    format: Literal["arrow"]


class TextSpec(TextFilesSpec):
    """Plain text in one column `text`: a row per line (empty lines too), or one per file, with its `path`."""

    format: Literal["text"]
    unit: Literal["line", "document"] = "line"


class ImagesSpec(FilesSpec):
    """Image files as bytes, undecoded, in a column `image`.

    Without `table`, rows are the files of a folder: `image`, `path` and `label` (the folder that holds the file).
    With `table`, rows are those of a table whose column `column` names files below `path`.
    """

    format: Literal["images"]
    suffixes: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
    table: Annotated[CsvSpec | JsonlSpec | ParquetSpec, Field(discriminator="format")] | None = None
    column: str = "path"
    per_part: int = Field(default=512, ge=1, le=1 << 20)


class NumpySpec(FilesSpec):
    """NumPy arrays: an .npy file is the column `column`, an .npz file has a column per array; rows are axis 0."""

    format: Literal["numpy"]
    column: str = "values"


class WebdatasetSpec(FilesSpec):
    """Tar files of samples: members that share a name up to its first dot are one row.

    `members` are the endings that become columns (with a null where a sample lacks one); without it, those of
    the first sample. `txt`, `json` and `cls` are strings, others bytes; nothing is ever unpickled.
    """

    format: Literal["webdataset"]
    members: tuple[str, ...] | None = None
    compression: Compression = "auto"


class HuggingfaceSpec(FilesSpec):
    """A dataset that `datasets.save_to_disk` wrote: a folder with state.json and Arrow files."""

    format: Literal["huggingface"]


class SqlSpec(Record):
    """A table or query of a database that SQLAlchemy opens.

    `url` has no password; one that needs it is in the environment variable that `url_environment` names.
    `key` is an integer column, never null, by which rows are ordered and divided into `shards` ranges.
    """

    format: Literal["sql"]
    url: str | None = None
    url_environment: str | None = None
    table: str | None = None
    table_schema: str | None = None
    query: str | None = None
    key: str
    shards: int = Field(default=1, ge=1, le=100_000)
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.url is None) == (self.url_environment is None):
            raise ValueError("give url, or url_environment (the name of the variable that holds it)")
        if (self.table is None) == (self.query is None):
            raise ValueError("give table, or query")
        if self.url is not None:
            _check_no_secret(self.url, user_allowed=True)
        if self.url_environment is not None and not _ENVIRONMENT_NAME.fullmatch(self.url_environment):
            raise ValueError("url_environment is the name of an environment variable")
        return self


class DeltaSpec(Record):
    """A Delta table by its folder or URI, at a version (the newest by default); needs the extra `delta`."""

    format: Literal["delta"]
    path: str
    version: int | None = Field(default=None, ge=0)
    limits: Limits = Limits()

    @field_validator("path")
    @classmethod
    def _path(cls, value: str) -> str:
        return _check_no_secret(value)


class IcebergSpec(Record):
    """An Iceberg table by the path of its metadata JSON file, at a snapshot; needs the extra `iceberg`."""

    format: Literal["iceberg"]
    metadata: str
    snapshot: int | None = None
    limits: Limits = Limits()

    @field_validator("metadata")
    @classmethod
    def _metadata(cls, value: str) -> str:
        return _check_no_secret(value)


class PluginSpec(Record):
    """A format of an installed package, found by name in the entry-point group `lightmill.sources`."""

    format: str
    path: str | tuple[str, ...] | None = None
    options: dict[str, JsonValue] = Field(default_factory=dict)
    limits: Limits = Limits()


BUILT_IN: Final = frozenset(
    (
        "csv",
        "jsonl",
        "parquet",
        "arrow",
        "text",
        "images",
        "numpy",
        "webdataset",
        "huggingface",
        "sql",
        "delta",
        "iceberg",
    )
)


def _format(value: Any) -> str:
    found = value.get("format", "csv") if isinstance(value, dict) else getattr(value, "format", "csv")
    return found if found in BUILT_IN else "plugin"


SourceSpec = Annotated[
    Annotated[CsvSpec, Tag("csv")]
    | Annotated[JsonlSpec, Tag("jsonl")]
    | Annotated[ParquetSpec, Tag("parquet")]
    | Annotated[ArrowSpec, Tag("arrow")]
    | Annotated[TextSpec, Tag("text")]
    | Annotated[ImagesSpec, Tag("images")]
    | Annotated[NumpySpec, Tag("numpy")]
    | Annotated[WebdatasetSpec, Tag("webdataset")]
    | Annotated[HuggingfaceSpec, Tag("huggingface")]
    | Annotated[SqlSpec, Tag("sql")]
    | Annotated[DeltaSpec, Tag("delta")]
    | Annotated[IcebergSpec, Tag("iceberg")]
    | Annotated[PluginSpec, Tag("plugin")],
    Discriminator(_format),
]


class UnionSpec(Record):
    """Rows of several sources one after another. `fill_nulls` gives nulls where a source lacks a column."""

    how: Literal["union"] = "union"
    fill_nulls: bool = False


class JoinSpec(Record):
    """Rows of the first source with the columns of the second, by the values of the key columns `on`.

    The second source is held in memory, at most `right_rows` rows and `right_bytes` bytes. `kind` says whether a
    row without a match goes or stays with nulls; `many` allows several matches (and so several rows) for one.
    """

    how: Literal["join"]
    on: tuple[str, ...] = Field(min_length=1)
    kind: Literal["left", "inner"] = "left"
    many: bool = False
    right_rows: int = Field(default=5_000_000, ge=1)
    right_bytes: int = Field(default=1 << 30, ge=1)


CombineSpec = Annotated[
    Annotated[UnionSpec, Tag("union")] | Annotated[JoinSpec, Tag("join")],
    Discriminator(lambda value: value.get("how", "union") if isinstance(value, dict) else value.how),
]


def _check_no_secret(address: str, user_allowed: bool = False) -> str:
    """Return the address; a ValueError, which never quotes it, says that it carries a secret."""
    if "://" not in address:
        return address
    try:
        url = urlsplit(address)
        password, user = url.password, url.username
        names = [name for name, _ in parse_qsl(url.query, keep_blank_values=True)]
    except ValueError:
        raise ValueError("the URL cannot be read") from None
    if password is not None or (user is not None and not user_allowed):
        raise ValueError("a URL carries a user name or password; give credentials through the environment")
    if any(_SECRET_PARAMETER.search(name) for name in names):
        raise ValueError("a URL carries a secret in its query; give credentials through the environment")
    return address
