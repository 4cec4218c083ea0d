"""One platform in a scratch folder and one Ray session, in which both sides of a data benchmark run.

Nothing here imports ray before `connect` has put the platform's environment in place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.made_rows import specification
from lightmill.records.assets import VersionSummary
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.jobs import Progress
from lightmill.settings import Settings
from lightmill.wiring.bootstrap import bootstrap
from lightmill.wiring.platform import Platform, open_platform
from lightmill.wiring.provenance import capture
from lightmill.wiring.session import connect


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSession:
    """A platform of its own, and the Ray that this process has started."""

    platform: Platform

    def ingest(self, rows: Path) -> VersionSummary:
        """Ingest made-up rows as a job would."""
        from lightmill.datasets.ingest import ingest

        spec = DatasetSpec.model_validate(specification(rows))
        location, registry = self.platform.location, self.platform.registry
        provenance = capture(spec.model_dump(mode="json"), rows, None)
        return ingest(spec, rows, registry, location, provenance, _silent, self.platform.settings.home / "ingest")


def _silent(progress: Progress) -> None:
    """Take a report; a job would write it to the catalog once a second."""


@contextmanager
def data_session(home: Path) -> Iterator[DataSession]:
    """Start a platform in `home` and a Ray of this process with the platform's settings; both end with the block."""
    root = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    for name in [name for name in os.environ if name.startswith(("LIGHTMILL_", "RAY_"))]:
        del os.environ[name]
    settings = Settings(home=home)
    bootstrap(settings)
    platform = open_platform(settings)
    with connect(settings):
        yield DataSession(platform=platform)
