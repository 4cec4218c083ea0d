"""Sealed dataset files through Ray Data: a datasink that writes a draft, a datasource that reads a version.

What travels to Ray's workers is a `RegistryLocation` and ids; each worker opens the key ring itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import ray.data
from ray.data import Datasink, Datasource
from ray.data.block import BlockAccessor, BlockMetadata
from ray.data.datasource import ReadTask

from lightmill.datasets.columns import FEATURES, LABEL
from lightmill.datasets.parquet import write_encrypted
from lightmill.datasets.reading import read_file, split_files
from lightmill.datasets.splits import SPLITS
from lightmill.records.assets import FileEntry
from lightmill.records.references import VersionId
from lightmill.registry import DraftId, OpenVersion, RegistryLocation

SPLIT_COLUMN = "split"
ROWS_PER_FILE = 250_000


class SealedSink(Datasink[list[FileEntry]]):
    """Writes blocks with a `split` column (int8) as encrypted Parquet objects of a draft, a file per split."""

    def __init__(self, location: RegistryLocation, draft: DraftId, tags: Mapping[str, str]) -> None:
        self._location = location
        self._draft = draft
        self._tags = dict(tags)
        self.files: list[FileEntry] = []

    def get_name(self) -> str:
        """Return the name that Ray shows."""
        return "Sealed"

    def write(self, blocks: Iterable[object], ctx: object) -> list[FileEntry]:
        """Seal this task's blocks; runs in a Ray worker."""
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]  # pyright: ignore[reportArgumentType]
        table = pa.concat_tables([t for t in tables if t.num_rows]) if any(t.num_rows for t in tables) else None
        return list(self._write_splits(table, ctx.task_idx)) if table is not None else []  # pyright: ignore[reportAttributeAccessIssue]

    def _write_splits(self, table: pa.Table, task: int) -> Iterator[FileEntry]:
        draft = self._location.open().join(self._draft)
        for code, split in enumerate(SPLITS):
            rows = table.filter(pa.array(table.column(SPLIT_COLUMN).to_numpy() == code)).drop_columns([SPLIT_COLUMN])
            for number, start in enumerate(range(0, rows.num_rows, ROWS_PER_FILE)):
                part = rows.slice(start, ROWS_PER_FILE)
                data = write_encrypted(part, draft.subkey, self._tags)
                digest, size = draft.put_object(data)
                yield FileEntry(
                    path=f"{split}/{task:05d}-{number:05d}.parquet",
                    size=size,
                    sha256=digest,
                    object=digest,
                    rows=part.num_rows,
                    group=split,
                )

    def on_write_complete(self, write_result: object) -> None:
        """Collect what the tasks wrote, on the driver."""
        self.files = [entry for entries in write_result.write_returns for entry in entries]  # pyright: ignore[reportAttributeAccessIssue]


class SealedSource(Datasource):
    """Reads columns of a version's files, one task a file."""

    def __init__(
        self, location: RegistryLocation, id: VersionId, files: Sequence[FileEntry], columns: Sequence[str]
    ) -> None:
        super().__init__()
        self._location = location
        self._id = id
        self._files = tuple(files)
        self._columns = tuple(columns)

    def get_name(self) -> str:
        """Return the name that Ray shows."""
        return "Sealed"

    def estimate_inmemory_data_size(self) -> int | None:
        """Return the files' size in bytes."""
        return sum(entry.size for entry in self._files)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """Return one task a file."""
        return [self._task(entry, per_task_row_limit) for entry in self._files]

    def _task(self, entry: FileEntry, limit: int | None) -> ReadTask:
        location, id, columns = self._location, self._id, self._columns
        metadata = BlockMetadata(num_rows=entry.rows, size_bytes=entry.size, exec_stats=None, input_files=None)
        return ReadTask(lambda: [read_file(location, id, entry, columns)], metadata, per_task_row_limit=limit)


def read_split(
    version: OpenVersion, location: RegistryLocation, split: str, columns: Sequence[str] = (FEATURES, LABEL)
) -> ray.data.Dataset:
    """Return a lazy Ray dataset of a split's columns; blocks are decrypted where they are used."""
    return ray.data.read_datasource(SealedSource(location, version.id, split_files(version, split), columns))
