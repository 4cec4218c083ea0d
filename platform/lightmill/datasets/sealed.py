"""Sealed dataset files through Ray Data: a datasink that writes a draft, a datasource that reads a version.

What travels to Ray's workers is a `RegistryLocation` and ids; each worker opens the key ring itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import ray.data
from ray.data import Datasink, Datasource
from ray.data.block import BlockAccessor, BlockMetadata
from ray.data.datasource import ReadTask

from lightmill.datasets.columns import FEATURES, LABEL
from lightmill.datasets.parquet import write_encrypted
from lightmill.datasets.reading import read_file, split_files
from lightmill.records.assets import FileEntry
from lightmill.records.references import VersionId
from lightmill.records.splitting import SPLITS
from lightmill.registry import Draft, DraftId, OpenVersion, RegistryLocation

SPLIT_COLUMN = "split"
QUARANTINE = "quarantine"
ROWS_PER_FILE = 250_000
TOGETHER_ROWS = 50_000
TOGETHER_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBlock:
    """`rows` have a column `split` int8, an index into SPLITS; `aside` are rejected rows that are kept, or nothing."""

    rows: pa.Table
    aside: pa.Table


class SealedSink(Datasink[list[FileEntry]]):
    """Prepares blocks where they are and writes them as encrypted Parquet objects of a draft, files for each split.

    A task holds at most the rows of one file for each split.
    """

    def __init__(
        self,
        location: RegistryLocation,
        draft: DraftId,
        tags: Mapping[str, str],
        prepare: Callable[[pa.Table], PreparedBlock],
    ) -> None:
        self._location = location
        self._draft = draft
        self._tags = dict(tags)
        self._prepare = prepare
        self.files: list[FileEntry] = []

    def get_name(self) -> str:
        """Return the name that Ray shows."""
        return "Sealed"

    def write(self, blocks: Iterable[object], ctx: object) -> list[FileEntry]:
        """Prepare and seal this task's blocks; runs in a Ray worker."""
        writer = _Writer(self._location.open().join(self._draft), self._tags, ctx.task_idx)  # pyright: ignore[reportAttributeAccessIssue]
        for table in _together(BlockAccessor.for_block(block).to_arrow() for block in blocks):  # pyright: ignore[reportArgumentType]
            found = self._prepare(table)
            code = found.rows.column(SPLIT_COLUMN).to_numpy()
            rows = found.rows.drop_columns([SPLIT_COLUMN])
            for number, split in enumerate(SPLITS):
                writer.add(split, rows.filter(pa.array(code == number)))
            writer.add(QUARANTINE, found.aside)
        return writer.finish()

    def on_write_complete(self, write_result: object) -> None:
        """Collect what the tasks wrote, on the driver."""
        self.files = [entry for entries in write_result.write_returns for entry in entries]  # pyright: ignore[reportAttributeAccessIssue]


def _together(blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield consecutive blocks as one until they are large: steps over rows see more than one small file."""
    waiting: list[pa.Table] = []
    for block in blocks:
        if block.num_rows:
            waiting.append(block)
        if (
            sum(table.num_rows for table in waiting) >= TOGETHER_ROWS
            or sum(t.nbytes for t in waiting) >= TOGETHER_BYTES
        ):
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


class _Writer:
    """Gathers rows by group and writes a file when there are enough."""

    def __init__(self, draft: Draft, tags: Mapping[str, str], task: int) -> None:
        self._draft = draft
        self._tags = dict(tags)
        self._task = task
        self._waiting: dict[str, list[pa.Table]] = {}
        self._written: Counter[str] = Counter()
        self._entries: list[FileEntry] = []

    def add(self, group: str, rows: pa.Table) -> None:
        """Take rows of a group, a split or the quarantine."""
        if rows.num_rows:
            waiting = self._waiting.setdefault(group, [])
            waiting.append(rows)
            if sum(table.num_rows for table in waiting) >= ROWS_PER_FILE:
                self._flush(group)

    def finish(self) -> list[FileEntry]:
        """Write what is left; return all files."""
        for group in sorted(self._waiting):
            self._flush(group)
        return self._entries

    def _flush(self, group: str) -> None:
        tables = self._waiting.pop(group, [])
        if not tables:
            return
        rows = pa.concat_tables(tables, promote_options="default")
        tags = {name: tag for name, tag in self._tags.items() if name in rows.column_names}
        digest, size = self._draft.put_object(write_encrypted(rows, self._draft.subkey, tags))
        entry = FileEntry(
            path=f"{group}/{self._task:05d}-{self._written[group]:05d}.parquet",
            size=size,
            sha256=digest,
            object=digest,
            rows=rows.num_rows,
            group=group,
        )
        self._written[group] += 1
        self._entries.append(entry)


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
