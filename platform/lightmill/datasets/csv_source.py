"""CSV files as rows with a stable `row_id`, read by Ray Data one file per task."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import csv as arrow_csv
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from lightmill.datasets.columns import ROW_ID
from lightmill.errors import NotFoundError, RequestError, UnavailableError
from lightmill.records.assets import SourceFile
from lightmill.records.specs import DatasetSpec

MISSING_VALUES = ["", "NA", "NaN", "nan", "null", "NULL", "?"]
BLOCK_BYTES = 16 << 20
_TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string()}


def find_source(spec: DatasetSpec, folder: Path) -> Path:
    """Return the source file, a relative path taken from `folder`.

    Raises:
        NotFoundError: There is no such file on the machine that runs this.
        RequestError: It lacks a declared column, or names a column twice.
    """
    path = (folder / spec.source.path).resolve()
    if not path.is_file():
        raise NotFoundError(
            f"No source file at {path}. source.path in the dataset's specification is taken from its folder; "
            "the file must be readable where the job runs."
        )
    _check_header(path, column_types(spec))
    return path


def column_types(spec: DatasetSpec) -> dict[str, pa.DataType]:
    """Return the Arrow type of every declared column that is not ignored, in order."""
    return {name: _TYPES[column.dtype] for column in spec.columns if column.role != "ignore" for name in column.names()}


def describe_source(path: Path) -> SourceFile:
    """Return a source file's name, size and digest, for the lineage."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return SourceFile(name=path.name, size_bytes=path.stat().st_size, sha256=digest)


def _check_header(path: Path, declared: dict[str, pa.DataType]) -> None:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [])
    except (UnicodeDecodeError, csv.Error) as exc:
        raise RequestError(f"{path} is not a CSV file in UTF-8: {exc}.") from exc
    except OSError as exc:
        raise UnavailableError(f"{path} cannot be read: {exc.strerror}.") from exc
    missing = [name for name in declared if name not in header]
    if missing:
        raise RequestError(
            f"{path} has no column {missing[0]!r}"
            + (f" (nor {len(missing) - 1} other declared ones)" if len(missing) > 1 else "")
            + f"; it has {', '.join(header[:8]) or 'none'}{', ...' if len(header) > 8 else ''}. "
            "Correct `columns` in the specification."
        )
    twice = sorted({name for name in header if header.count(name) > 1} & set(declared))
    if twice:
        raise RequestError(f"{path} has the column {twice[0]!r} twice; rename one.")


class CsvSource(Datasource):
    """Reads declared columns of one CSV file and numbers its rows from 0 as `row_id`."""

    def __init__(self, path: Path, types: dict[str, pa.DataType]) -> None:
        super().__init__()
        self._path = str(path)
        self._types = types

    def get_name(self) -> str:
        """Return the name that Ray shows."""
        return "Csv"

    def estimate_inmemory_data_size(self) -> int | None:
        """Return the file's size in bytes."""
        return Path(self._path).stat().st_size

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """Return one task: row numbers need the file read from its beginning."""
        path, types = self._path, self._types
        metadata = BlockMetadata(
            num_rows=None, size_bytes=Path(path).stat().st_size, exec_stats=None, input_files=(path,)
        )
        return [ReadTask(lambda: read_rows(path, types), metadata, per_task_row_limit=per_task_row_limit)]


def read_rows(path: str, types: dict[str, pa.DataType]) -> Iterator[pa.Table]:
    """Yield the declared columns in blocks, with `row_id` int64 first.

    Raises:
        RequestError: A row is ragged, or a value is not of its declared type; the message has both.
    """
    convert = arrow_csv.ConvertOptions(
        column_types=types,
        include_columns=list(types),
        null_values=MISSING_VALUES,
        strings_can_be_null=True,
    )
    first = 0
    try:
        with arrow_csv.open_csv(
            path, read_options=arrow_csv.ReadOptions(block_size=BLOCK_BYTES), convert_options=convert
        ) as reader:
            for batch in reader:
                table = pa.Table.from_batches([batch])
                ids = pa.array(range(first, first + len(table)), type=pa.int64())
                first += len(table)
                yield table.add_column(0, ROW_ID, ids)
    except pa.ArrowInvalid as exc:
        raise RequestError(f"{path}: {exc}. Correct the file or the declared columns.") from exc
    except OSError as exc:
        raise UnavailableError(f"{path} cannot be read: {exc}.") from exc
