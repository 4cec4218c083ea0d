"""A pass over a source by Ray Data: each task reads some parts, works on their blocks, and gives one small result.

Results come in the order of the tasks, whoever finished first, so that whatever is made of them is the same each time.
What is finished is in the journal, and is not read again by a job that begins where another was killed.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from lightmill.datasets.journal import Journal
from lightmill.datasets.progress import Meter
from lightmill.datasets.sources.blocks import read_blocks
from lightmill.datasets.sources.port import Part, Source

Result = TypeVar("Result")
Work = Callable[[Iterator[pa.Table], int], Result]
"""Takes the blocks of a task and its number; runs in a Ray worker, so it pickles."""

RESULT = "result"


class WorkSource(Datasource):
    """The tasks of a pass as Ray Data reads them: what a task reads is one row, its result."""

    def __init__(self, name: str, source: Source, tasks: dict[int, Sequence[Part]], work: Work[Any]) -> None:
        super().__init__()
        self._name = name
        self._tasks = tasks
        self._shared = ray.put((source, work))  # once for all tasks: a source may list very many files

    def get_name(self) -> str:
        """Return the name that Ray shows."""
        return self._name.capitalize()

    def estimate_inmemory_data_size(self) -> int | None:
        """Return nothing: results are small, whatever is read."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """Return all tasks, in order."""
        metadata = BlockMetadata(num_rows=1, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(self._task(number, parts), metadata) for number, parts in self._tasks.items()]

    def _task(self, number: int, parts: Sequence[Part]) -> Callable[[], list[pa.Table]]:
        shared = self._shared

        def run() -> list[pa.Table]:
            source, work = ray.get(shared)
            blocks = (block for part in parts for block in read_blocks(source, part))
            return [pa.table({RESULT: [pickle.dumps(work(blocks, number), protocol=5)]})]

        return run


class Passes:
    """Runs passes over one source whose parts are divided into tasks once."""

    def __init__(self, source: Source, tasks: Sequence[Sequence[Part]], journal: Journal) -> None:
        self._source = source
        self._tasks = dict(enumerate(tasks))
        self.journal = journal

    @property
    def size_bytes(self) -> int:
        """Return about how many bytes a pass reads."""
        return sum(self._bytes(number) for number in self._tasks)

    def run(self, name: str, work: Work[Result], meter: Meter) -> Iterator[Result]:
        """Yield the result of every task in order; those in the journal under `name` are not run again.

        `meter` hears the bytes that have been read; its rows are the caller's to tell.
        """
        finished = [number for number in self._tasks if self.journal.has(name, number)]
        meter.resume(len(finished), len(self._tasks))
        fresh = self._fresh(name, work)
        for number in self._tasks:
            data = self.journal.get(name, number) if self.journal.has(name, number) else next(fresh)
            meter.read(self._bytes(number))
            yield pickle.loads(data)  # noqa: S301 - our workers made it; the journal is sealed

    def again(self, name: str) -> Iterator[Any]:
        """Yield the results of a pass that has run, from the journal."""
        for number in self._tasks:
            yield pickle.loads(self.journal.get(name, number))  # noqa: S301 - as above

    def _fresh(self, name: str, work: Work[Any]) -> Iterator[bytes]:
        """Run the tasks that are not finished; each result is in the journal before it is given out."""
        tasks = {number: parts for number, parts in self._tasks.items() if not self.journal.has(name, number)}
        if not tasks:
            return
        source = WorkSource(name, self._source, tasks, work)
        found = ray.data.read_datasource(source, override_num_blocks=len(tasks))
        found.context.execution_options.preserve_order = True
        numbers = iter(tasks)
        for batch in found.iter_batches(batch_size=None, batch_format="pyarrow"):
            for data in batch.column(RESULT).to_pylist():  # pyright: ignore[reportAttributeAccessIssue]
                self.journal.put(name, next(numbers), data)
                yield data

    def _bytes(self, number: int) -> int:
        return sum(part.size_bytes for part in self._tasks[number])
