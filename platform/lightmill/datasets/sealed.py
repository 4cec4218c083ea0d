"""Sealed dataset files through Ray Data: tasks that write a draft, a datasource that reads a version.

What travels to Ray's workers is a `RegistryLocation` and ids; each worker opens the key ring itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import ray.data
from blake3 import blake3
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from lightmill.datasets.columns import FEATURES, LABEL
from lightmill.datasets.content import table_digest
from lightmill.datasets.parquet import Subkey, write_encrypted
from lightmill.datasets.reading import read_file, split_files
from lightmill.records.assets import FileEntry
from lightmill.records.references import VersionId
from lightmill.records.splitting import SPLITS
from lightmill.registry import Draft, DraftId, OpenVersion, RegistryLocation

SPLIT_COLUMN = "split"
QUARANTINE = "quarantine"
ROWS_PER_FILE = 250_000
BYTES_PER_FILE = 128 << 20
TOGETHER_ROWS = 50_000
TOGETHER_BYTES = 32 << 20
Write = Callable[[pa.Table, Subkey, Mapping[str, str] | None], memoryview]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBlock:
    """`rows` have a column `split` int8, an index into SPLITS; `aside` are rejected rows that are kept, or nothing."""

    rows: pa.Table
    aside: pa.Table


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRows:
    """What a task has sealed: its files, and how many rows each class has in each split (split, class code)."""

    files: tuple[FileEntry, ...] = ()
    classes: Counter[tuple[int, int]] = field(default_factory=Counter)

    def __add__(self, other: SealedRows) -> SealedRows:
        return SealedRows(files=(*self.files, *other.files), classes=self.classes + other.classes)


class SealTask:
    """Prepares the blocks of a task and writes them as encrypted Parquet objects of a draft, files for each split.

    It holds at most the rows of one file, of all splits together.
    """

    def __init__(
        self,
        location: RegistryLocation,
        draft: DraftId,
        tags: Mapping[str, str],
        prepare: Callable[[pa.Table], PreparedBlock],
        *,
        first_task: int = 0,
        write: Write = write_encrypted,
    ) -> None:
        self._location = location
        self._draft = draft
        self._tags = dict(tags)
        self._prepare = prepare
        self._first_task = first_task
        self._write = write

    def __call__(self, blocks: Iterator[pa.Table], number: int) -> SealedRows:
        """Prepare and seal; runs in a Ray worker."""
        writer = _Writer(self._location.open().join(self._draft), self._tags, self._first_task + number, self._write)
        classes: Counter[tuple[int, int]] = Counter()
        for table in _together(blocks):
            found = self._prepare(table)
            code = found.rows.column(SPLIT_COLUMN).to_numpy()
            rows = found.rows.drop_columns([SPLIT_COLUMN])
            for index, split in enumerate(SPLITS):
                mine = rows.filter(pa.array(code == index))
                writer.add(split, mine)
                classes.update(_counted(mine, index))
            writer.add(QUARANTINE, found.aside)
        return SealedRows(files=tuple(writer.finish()), classes=classes)


def _counted(rows: pa.Table, split: int) -> dict[tuple[int, int], int]:
    """Return the rows of each class, where there is a label."""
    if LABEL not in rows.column_names:
        return {}
    codes, counts = np.unique(rows.column(LABEL).to_numpy(), return_counts=True)
    return {(split, int(code)): int(count) for code, count in zip(codes, counts, strict=True)}


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

    def __init__(self, draft: Draft, tags: Mapping[str, str], task: int, write: Write) -> None:
        self._draft = draft
        self._tags = dict(tags)
        self._task = task
        self._write = write
        self._waiting: dict[str, list[pa.Table]] = {}
        self._written: Counter[str] = Counter()
        self._entries: list[FileEntry] = []

    def add(self, group: str, rows: pa.Table) -> None:
        """Take rows of a group, a split or the quarantine."""
        if rows.num_rows:
            self._waiting.setdefault(group, []).append(rows)
            while self._is_full():
                self._flush(max(sorted(self._waiting), key=self._rows))

    def _rows(self, group: str) -> int:
        return sum(table.num_rows for table in self._waiting[group])

    def _is_full(self) -> bool:
        """Whether what waits, of all groups together, is as much as one file holds."""
        tables = [table for waiting in self._waiting.values() for table in waiting]
        return (
            sum(table.num_rows for table in tables) >= ROWS_PER_FILE
            or sum(table.nbytes for table in tables) >= BYTES_PER_FILE
        )

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
        data = self._write(rows, self._draft.subkey, tags)
        digest, size = self._draft.put_object(data)
        entry = FileEntry(
            path=f"{group}/{self._task:05d}-{self._written[group]:05d}.parquet",
            size=size,
            sha256=digest,
            object=digest,
            blake3=blake3(data).hexdigest(),
            rows=rows.num_rows,
            group=group,
            content=table_digest(rows),
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
