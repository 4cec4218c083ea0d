"""Real ingestion in a test's process: a platform in a folder, a Ray of its own, and `ingest` as the job calls it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lightmill.datasets.reading import read_file
from lightmill.records.assets import Profile, Provenance
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.references import AssetKind, Reference
from lightmill.records.specs import parse_spec
from lightmill.registry import OpenVersion
from lightmill.settings import Settings
from lightmill.spilling import job_spill_folder
from lightmill.wiring.bootstrap import bootstrap
from lightmill.wiring.platform import Platform, open_platform


@dataclass(frozen=True, slots=True)
class Ingested:
    """A new version, as whoever holds the keys reads it."""

    platform: Platform
    version: OpenVersion

    def group(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a split or of `quarantine`, as Python values, by row id."""
        entries = [entry for entry in self.version.manifest.files if entry.group == name]
        tables = [read_file(self.platform.location, self.version.id, entry, None) for entry in entries]
        rows = pa.concat_tables(tables, promote_options="default").to_pylist() if tables else []
        return sorted(rows, key=lambda row: row["row_id"])

    def kept(self) -> list[dict[str, Any]]:
        """Return the rows of all splits."""
        rows = [row for split in ("train", "validation", "test") for row in self.group(split)]
        return sorted(rows, key=lambda row: row["row_id"])

    @property
    def profile(self) -> Profile:
        """Return the summary on the version's card."""
        assert self.version.manifest.dataset is not None
        return self.version.manifest.dataset.profile


@dataclass(frozen=True, slots=True)
class Workshop:
    """Ingests specifications; Ray runs already."""

    platform: Platform

    def ingest(self, folder: Path, spec: dict[str, Any]) -> Ingested:
        from lightmill.datasets.ingest import ingest

        platform = self.platform
        parsed = parse_spec(DatasetSpec, spec, "the specification").with_policy(platform.policies.settle)
        work = platform.settings.home / "ingest"
        made = ingest(parsed, folder, platform.registry, platform.location, Provenance(), lambda _: None, work)
        number = Reference(name=made.id.name, selector=str(made.id.seq))
        return Ingested(platform, platform.registry.open(platform.registry.resolve(AssetKind.DATASET, number)))


@contextmanager
def workshop(home: Path) -> Iterator[Workshop]:
    """Yield a workshop with a platform in `home`; its Ray ends with the `with` block."""
    settings = Settings(home=home, spill_path=home / "spill", num_cpus=2)
    bootstrap(settings)
    before = dict(os.environ)
    os.environ.pop("RAY_ADDRESS", None)
    try:
        os.environ.update(settings.node_environment())
        # A process reads Ray's token once, and tests beside this one start a Ray of their own in the same process.
        os.environ["RAY_AUTH_MODE"] = "disabled"
        from lightmill.control.ray_session import own_session

        with job_spill_folder(settings) as folder, own_session(settings.num_cpus, 0, folder):
            yield Workshop(open_platform(settings))
    finally:
        os.environ.clear()
        os.environ.update(before)
