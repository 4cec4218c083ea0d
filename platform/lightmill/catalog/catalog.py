"""The catalog as the other rooms hold it: one object per noun."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from lightmill.catalog.database import Database
from lightmill.catalog.endpoints import Endpoints
from lightmill.catalog.facts import Facts
from lightmill.catalog.jobs import Jobs
from lightmill.catalog.keys import Keys
from lightmill.catalog.marks import Marks
from lightmill.catalog.masking_policies import MaskingPolicies
from lightmill.catalog.notes import VersionNotes
from lightmill.catalog.runs import Runs
from lightmill.catalog.search import Search
from lightmill.catalog.traffic import Traffic
from lightmill.catalog.versions import Versions
from lightmill.records.base import now_iso


class Catalog:
    """The metadata database; use `Catalog.open`. Threads and processes may share one database.

    Every method of every noun raises UnavailableError when the database does not answer, is locked for over
    30 s, cannot be written or has not been migrated; trying again is safe.

    Attributes:
        versions: The index of datasets, models and runs, and their aliases.
        notes: What is said of versions: tags, stage, text, evaluations.
        search: Finds versions by name, tag, stage, metric, time and dataset.
        marks: High-water marks, which reveal a store that was rolled back.
        endpoints: Desired and observed state of endpoints.
        traffic: How far the candidates of endpoints have come.
        jobs: Jobs and their progress.
        runs: Metrics by epoch and by step.
        keys: API keys, by the digests of their secrets.
        masking_policies: Masking policies by name and number, signed.
        facts: Small facts about this deployment.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.versions = Versions(database)
        self.notes = VersionNotes(database)
        self.search = Search(database)
        self.marks = Marks(database)
        self.endpoints = Endpoints(database)
        self.traffic = Traffic(database)
        self.jobs = Jobs(database)
        self.runs = Runs(database)
        self.keys = Keys(database)
        self.masking_policies = MaskingPolicies(database)
        self.facts = Facts(database)

    @classmethod
    def open(cls, url: str, *, clock: Callable[[], str] = now_iso) -> Self:
        """Return the catalog at `sqlite:////path/catalog.db` or `postgresql://user:password@host/database`.

        Nothing is connected or migrated yet. A SQLite file that is missing is made when it is first used,
        with mode 0600, and so is its folder, with mode 0700.

        Args:
            url: Where the catalog is.
            clock: Returns the present time, as records write it.

        Raises:
            RequestError: The URL is malformed, names another database, or needs a driver that is missing.
        """
        return cls(Database(url, clock))

    @property
    def url(self) -> str:
        """The URL for messages, without the password."""
        return self._database.shown

    def migrate(self) -> None:
        """Bring the tables to the newest revision; several processes may do so at once.

        Raises:
            UnavailableError: The database cannot be used now, or a newer Lightmill has migrated it.
        """
        from lightmill.catalog.migrate import migrate  # Alembic takes longer to import than a job to open

        migrate(self._database)

    def close(self) -> None:
        """Close the connections. The catalog opens new ones when it is used again."""
        self._database.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
