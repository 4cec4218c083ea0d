"""Jobs and their progress. Several processes report on one job; a final state is never left again."""

from __future__ import annotations

import builtins
from typing import Any

from sqlalchemy import RowMapping, select, update

from lightmill.catalog.database import Database, as_record, insert_into
from lightmill.catalog.tables import jobs
from lightmill.errors import ConflictError, NotFoundError, RequestError
from lightmill.records.jobs import Job, JobKind, JobState, Progress

_FINAL = [state.value for state in JobState if state.final]


class Jobs:
    """Jobs by id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, job: Job) -> Job:
        """Keep a new job and return it, with `created` filled in when it is empty.

        Raises:
            ConflictError: There is a job with this id.
        """
        job = job if job.created else job.model_copy(update={"created": self._database.now()})
        with self._database.write() as connection:
            statement = insert_into(connection, jobs).values(job.model_dump(mode="json"))
            row = connection.execute(statement.on_conflict_do_nothing().returning(jobs)).mappings().first()
        if row is None:
            raise ConflictError(f"There is a job with the id {job.id!r} already; use another id.")
        return _job(row)

    def get(self, id: str) -> Job:
        """Return one job.

        Raises:
            NotFoundError: There is none with this id.
        """
        with self._database.read() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == id)).mappings().first()
        if row is None:
            recent = ", ".join(job.id for job in self.list(limit=5))
            there_are = f"the newest are {recent}" if recent else "there are none yet"
            raise NotFoundError(f"No job with the id {id!r}; {there_are}.")
        return _job(row)

    def list(self, limit: int = 50, kind: JobKind | None = None) -> builtins.list[Job]:
        """Return the newest jobs first.

        Raises:
            RequestError: `limit` is below 1.
        """
        if limit < 1:
            raise RequestError(f"A list of jobs has a limit of at least 1, not {limit}.")
        query = select(jobs).order_by(jobs.c.created.desc(), jobs.c.id.desc()).limit(limit)
        if kind is not None:
            query = query.where(jobs.c.kind == JobKind(kind).value)
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def update(
        self,
        id: str,
        *,
        expect: set[JobState] | None = None,
        state: JobState | None = None,
        message: str | None = None,
        progress: Progress | None = None,
        result: dict[str, object] | None = None,
        submission_id: str | None = None,
        started: str | None = None,
        finished: str | None = None,
    ) -> Job:
        """Change what is given, in one step, and return the job; None leaves a field as it is.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job is in no state of `expect`, or in a final one and `state` is another.
        """
        given = {
            "state": None if state is None else JobState(state).value,
            "message": message,
            "progress": None if progress is None else progress.model_dump(mode="json"),
            "result": result,
            "submission_id": submission_id,
            "started": started,
            "finished": finished,
        }
        columns = {name: value for name, value in given.items() if value is not None}
        row = self._compare_and_set(id, expect, columns) if columns else None
        if row is not None:
            return _job(row)
        job = self.get(id)
        if columns or (expect is not None and job.state not in expect):
            raise ConflictError(_why_not(job, expect, state))
        return job

    def _compare_and_set(self, id: str, expect: set[JobState] | None, columns: dict[str, Any]) -> RowMapping | None:
        statement = update(jobs).where(jobs.c.id == id)
        if expect is not None:
            statement = statement.where(jobs.c.state.in_([JobState(state).value for state in expect]))
        if "state" in columns:
            statement = statement.where(jobs.c.state.not_in(_FINAL) | (jobs.c.state == columns["state"]))
        with self._database.write() as connection:
            return connection.execute(statement.values(columns).returning(jobs)).mappings().first()


def _job(row: RowMapping) -> Job:
    return as_record(Job, row)


def _why_not(job: Job, expect: set[JobState] | None, state: JobState | None) -> str:
    if job.state.final and state not in (None, job.state):
        return f"Job {job.id!r} is {job.state.value}, which is final; it cannot become {state}."
    wanted = " or ".join(sorted(JobState(one).value for one in expect or ()))
    return f"Job {job.id!r} is {job.state.value}, not {wanted or 'as expected'}; read it and decide again."
