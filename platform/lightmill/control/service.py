"""What the platform can be asked to do, one method an operation; the HTTP routes are a thin layer over it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import ray

from lightmill.catalog import Catalog
from lightmill.control.jobs import Jobs
from lightmill.datasets.reading import read_rows
from lightmill.errors import NotFoundError, RequestError
from lightmill.records.assets import AssetSummary, VersionSummary
from lightmill.records.base import Record
from lightmill.records.endpoints import Endpoint, EndpointState
from lightmill.records.jobs import EpochMetrics, Job, JobKind
from lightmill.records.references import AssetKind, Reference, parse_reference
from lightmill.records.specs import DatasetSpec, EndpointSpec, TrainSpec, parse_spec
from lightmill.registry import Registry, RegistryLocation
from lightmill.settings import Settings

ROWS_MAX = 10_000


class PlatformStatus(Record):
    """How the platform is: its version, the cluster's logical resources (total and free), counts."""

    version: str
    store: str
    resources: dict[str, float]
    free: dict[str, float]
    nodes: int
    models: int
    datasets: int
    endpoints: dict[str, int]
    jobs_running: int


class Lineage(Record):
    """Where a version comes from and what came of it."""

    version: VersionSummary
    dataset: VersionSummary | None
    endpoints: tuple[str, ...]
    derived: tuple[str, ...]


class ControlService:
    """The operations of one workspace."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        registry: Registry,
        location: RegistryLocation,
        jobs: Jobs,
        wake: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._registry = registry
        self._location = location
        self._jobs = jobs
        self._wake = wake

    def status(self, version: str) -> PlatformStatus:
        """Return how the platform is."""
        endpoints = self._catalog.endpoints.list()
        states = [endpoint.state for endpoint in endpoints]
        return PlatformStatus(
            version=version,
            store=self._settings.store_url,
            resources=_plain(ray.cluster_resources()),
            free=_plain(ray.available_resources()),
            nodes=sum(1 for node in ray.nodes() if node["Alive"]),
            models=len(self._catalog.versions.assets(AssetKind.MODEL)),
            datasets=len(self._catalog.versions.assets(AssetKind.DATASET)),
            endpoints={str(state): states.count(state) for state in sorted(set(states))},
            jobs_running=sum(1 for job in self._catalog.jobs.list(limit=200) if not job.state.final),
        )

    # -- jobs ---------------------------------------------------------------

    def submit_ingest(self, spec: dict[str, object], folder: str) -> Job:
        """Start an ingest job.

        Raises:
            RequestError: The specification is invalid.
            NotFoundError: The source file is not on this machine.
        """
        parsed = parse_spec(DatasetSpec, spec, "The dataset specification")
        source = (Path(folder) / parsed.source.path).resolve()
        if source.is_relative_to(self._settings.home.resolve()):
            raise RequestError(f"{source} lies in the platform's own home; it cannot be a source.")
        if not source.is_file():
            raise NotFoundError(
                f"No source file at {source} on the platform's machine; source.path is taken from the folder of "
                "the specification."
            )
        return self._jobs.submit(JobKind.INGEST, parsed.name, parsed.model_dump(mode="json"), folder)

    def submit_train(self, spec: dict[str, object], folder: str) -> Job:
        """Start a training job.

        Raises:
            RequestError: The specification is invalid, or does not fit the dataset.
            NotFoundError: There is no such dataset.
        """
        parsed = parse_spec(TrainSpec, spec, "The training specification")
        dataset = self.version(AssetKind.DATASET, parsed.dataset)
        features, classes = dataset.card.get("features"), dataset.card.get("classes")
        if isinstance(features, dict) and isinstance(classes, list):
            parsed.architecture.with_sizes(inputs=math.prod(features["shape"]), classes=len(classes))
        return self._jobs.submit(JobKind.TRAIN, parsed.model, parsed.model_dump(mode="json"), folder)

    def jobs(self, limit: int) -> list[Job]:
        """Return the newest jobs."""
        return self._catalog.jobs.list(limit=limit)

    def job(self, id: str) -> Job:
        """Return a job; NotFoundError if there is none."""
        return self._catalog.jobs.get(id)

    def job_metrics(self, id: str) -> list[EpochMetrics]:
        """Return the metrics of a job's run, epoch by epoch."""
        return self._catalog.runs.epochs(self.job(id).id)

    def job_logs(self, id: str) -> str:
        """Return a job's log so far; NotFoundError if Ray has none."""
        return self._jobs.logs(self.job(id))

    def cancel_job(self, id: str) -> Job:
        """Stop a job; ConflictError if it has ended."""
        return self._jobs.cancel(self.job(id))

    # -- assets -------------------------------------------------------------

    def assets(self, kind: AssetKind) -> list[AssetSummary]:
        """Return all assets of a kind."""
        return self._catalog.versions.assets(kind)

    def asset(self, kind: AssetKind, name: str) -> AssetSummary:
        """Return one asset; NotFoundError if there is none."""
        return self._catalog.versions.asset(kind, name)

    def versions(self, kind: AssetKind, name: str) -> list[VersionSummary]:
        """Return an asset's versions, newest first; NotFoundError if there is no such asset."""
        self._catalog.versions.asset(kind, name)
        return self._catalog.versions.list(kind, name)

    def version(self, kind: AssetKind, reference: str) -> VersionSummary:
        """Return the version that a reference selects; NotFoundError if there is none."""
        id = self._registry.resolve(kind, parse_reference(reference))
        return self._catalog.versions.get(kind, id.name, id.seq)

    def lineage(self, kind: AssetKind, reference: str) -> Lineage:
        """Return what a version comes from and what came of it."""
        version = self.version(kind, reference)
        parent = version.provenance.dataset
        dataset = self._catalog.versions.get(parent.kind, parent.name, parent.seq) if parent else None
        serving = [e.name for e in self._catalog.endpoints.list() if e.version == version.id]
        derived = self._catalog.versions.derived_from(version.id)
        return Lineage(
            version=version,
            dataset=dataset,
            endpoints=tuple(serving),
            derived=tuple(f"{entry.id.kind} {entry.id}" for entry in derived),
        )

    def set_alias(self, kind: AssetKind, name: str, alias: str, version: int, expect: int | None) -> AssetSummary:
        """Move an alias; every endpoint that follows it rolls.

        Raises:
            RequestError: The alias has a malformed name, or is `latest`.
            NotFoundError: There is no such version.
            ConflictError: It does not point at the version `expect`.
        """
        self._registry.set_alias(kind, name, alias, version, expect=expect)
        self._wake()
        return self._catalog.versions.asset(kind, name)

    def rows(self, reference: str, split: str, offset: int, limit: int) -> pa.Table:
        """Return rows of a dataset version in its stored columns; limit is at most ROWS_MAX."""
        id = self._registry.resolve(AssetKind.DATASET, parse_reference(reference))
        version = self._registry.open(id)
        return read_rows(version, self._location, split, offset, min(limit, ROWS_MAX))

    # -- endpoints ----------------------------------------------------------

    def deploy(self, spec: dict[str, object]) -> Endpoint:
        """Write down what an endpoint should be; the control loop makes it so.

        Raises:
            RequestError: The specification is invalid.
            NotFoundError: Its model, version or alias does not exist.
        """
        parsed = parse_spec(EndpointSpec, spec, "The endpoint specification")
        reference: Reference = parse_reference(parsed.model)
        wanted = self._registry.resolve(AssetKind.MODEL, reference)
        endpoint = self._catalog.endpoints.put(parsed)
        if endpoint.state is EndpointState.READY and endpoint.version != wanted:
            # The alias moved and the loop has not seen it yet: whoever waits must not take the old version for ready.
            self._catalog.endpoints.observe(
                parsed.name,
                state=EndpointState.PENDING,
                version=endpoint.version,
                replicas=endpoint.replicas,
                message="",
            )
            endpoint = self._catalog.endpoints.get(parsed.name)
        self._wake()
        return self._with_url(endpoint)

    def endpoints(self) -> list[Endpoint]:
        """Return all endpoints."""
        return [self._with_url(endpoint) for endpoint in self._catalog.endpoints.list()]

    def endpoint(self, name: str) -> Endpoint:
        """Return one endpoint; NotFoundError if there is none."""
        return self._with_url(self._catalog.endpoints.get(name))

    def delete_endpoint(self, name: str) -> Endpoint:
        """Take an endpoint away; NotFoundError if there is none."""
        self._catalog.endpoints.delete(name)
        self._wake()
        return self.endpoint(name)

    def _with_url(self, endpoint: Endpoint) -> Endpoint:
        url = f"{self._settings.base_url}/v2/models/{endpoint.name}"
        return endpoint.model_copy(update={"url": url})

    def all_ready(self) -> bool:
        """Whether every endpoint that should answer does."""
        endpoints = self._catalog.endpoints.list()
        return all(e.state is EndpointState.READY for e in endpoints if not e.deleted)


def _plain(resources: Mapping[str, float]) -> dict[str, float]:
    """Leave out Ray's internal resources (one per node)."""
    return {key: value for key, value in sorted(resources.items()) if ":" not in key}
