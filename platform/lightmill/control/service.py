"""What the platform can be asked to do, one method an operation; the HTTP routes are a thin layer over it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import ray

from lightmill.catalog import Catalog
from lightmill.control.assets import AssetService
from lightmill.control.divisions import check_divisible
from lightmill.control.graphs import check_graph, members_of
from lightmill.control.jobs import Jobs
from lightmill.errors import ConflictError, NotFoundError, RequestError
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.endpoints import Endpoint, EndpointState
from lightmill.records.jobs import STEP_POINTS_MAX, EpochMetrics, Job, JobKind, RunMetrics, StepMetrics
from lightmill.records.platform import PlatformStatus
from lightmill.records.references import AssetKind, Reference, parse_reference
from lightmill.records.replay import version_of
from lightmill.records.search import parse_comparisons
from lightmill.records.specs import EndpointSpec, TrainSpec, parse_spec
from lightmill.records.traffic import TrafficSpec
from lightmill.records.tuning import TrialTable, TuneSpec
from lightmill.registry import PolicyBook, Registry, RegistryLocation
from lightmill.settings import Settings


class ControlService:
    """The operations of one workspace.

    Attributes:
        assets: Those on datasets and models.
    """

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
        self._jobs = jobs
        self._wake = wake
        required = parse_comparisons(settings.promotion_requires)
        self.assets = AssetService(catalog, registry, location, required, wake)

    def status(self, version: str) -> PlatformStatus:
        """Return how the platform is."""
        endpoints = self._catalog.endpoints.list()
        states = [endpoint.state for endpoint in endpoints]
        return PlatformStatus(
            version=version,
            store=self._settings.store_url,
            grpc=self._settings.grpc_address,
            resources=_plain(ray.cluster_resources()),
            free=_plain(ray.available_resources()),
            nodes=sum(1 for node in ray.nodes() if node["Alive"]),
            models=self._catalog.versions.count(AssetKind.MODEL),
            datasets=self._catalog.versions.count(AssetKind.DATASET),
            endpoints={str(state): states.count(state) for state in sorted(set(states))},
            jobs_running=sum(1 for job in self._catalog.jobs.list(limit=200) if not job.state.final),
        )

    # -- jobs ---------------------------------------------------------------

    def submit_ingest(self, spec: dict[str, object], folder: str) -> Job:
        """Start an ingest job.

        Raises:
            RequestError: The specification is invalid.
            NotFoundError: The source file is not on this machine, or there is no masking policy of that name.
        """
        book = PolicyBook(self._catalog, self._registry.keyring)
        parsed = parse_spec(DatasetSpec, spec, "The dataset specification").with_policy(book.settle)
        for path in parsed.local_paths():
            source = (Path(folder) / path).resolve()
            if source.is_relative_to(self._settings.home.resolve()):
                raise RequestError(f"{source} lies in the platform's own home; it cannot be a source.")
            if not source.exists() and not set("*?[") & set(path):
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
        self._check_train(parsed)
        return self._jobs.submit(JobKind.TRAIN, parsed.model, parsed.model_dump(mode="json"), folder)

    def _check_train(self, parsed: TrainSpec) -> None:
        dataset = self.assets.version(AssetKind.DATASET, parsed.dataset)
        features, classes = dataset.card.get("features"), dataset.card.get("classes")
        if parsed.objective == "causal_lm":
            if not dataset.card.get("tokens"):
                raise RequestError(f"Dataset {parsed.dataset} has no token ids to train on.")
        elif isinstance(features, dict) and isinstance(classes, list):
            if not classes:
                raise RequestError(f"Dataset {parsed.dataset} has no label to train on.")
            parsed.architecture.with_sizes(inputs=math.prod(features["shape"]), classes=len(classes))

    def submit_tune(self, spec: dict[str, object], folder: str, resume: str | None = None) -> Job:
        """Start a tuning job; `resume` is one with the same specification, whose trials it goes on with.

        Raises:
            RequestError: The specification is invalid, does not fit the dataset, or is not that of the job to resume.
            NotFoundError: There is no such dataset, or no such job.
            ConflictError: The job to resume has not ended.
        """
        parsed = parse_spec(TuneSpec, spec, "The tuning specification")
        self._check_train(parsed.train)
        value = parsed.model_dump(mode="json")
        if resume is not None:
            earlier = self.job(resume)
            if earlier.kind is not JobKind.TUNE or earlier.spec != value:
                raise RequestError(f"Job {resume} is no tuning job with this very specification; start a new one.")
            if not earlier.state.final:
                raise ConflictError(f"Job {resume} is {earlier.state}; it can be resumed when it has ended.")
        return self._jobs.submit(JobKind.TUNE, parsed.train.model, value, folder, resume)

    def replay(self, id: str, folder: str) -> Job:
        """Start a job that does a run again and compares the weights.

        Raises:
            NotFoundError: There is no such run, or its model version is gone.
            RequestError: It cannot be replayed.
            ConflictError: It has not succeeded.
        """
        reference = version_of(self.job(id))
        self._registry.resolve(AssetKind.MODEL, reference)
        return self._jobs.submit(JobKind.REPLAY, reference.name, {"run": id}, folder)

    def trials(self, id: str) -> TrialTable:
        """Return the trials of a tuning job so far; NotFoundError if there is none."""
        found = self.job(id).result.get("tuning")
        if found is None:
            raise NotFoundError(f"Job {id} has no trials; only tuning jobs have, when they have begun.")
        return TrialTable.model_validate(found)

    def jobs(self, limit: int) -> list[Job]:
        """Return the newest jobs, without tables of trials."""
        return [_short(job) for job in self._catalog.jobs.list(limit=limit)]

    def job(self, id: str) -> Job:
        """Return a job; NotFoundError if there is none."""
        return self._catalog.jobs.get(id)

    def job_metrics(self, id: str) -> list[EpochMetrics]:
        """Return the metrics of a job's run, epoch by epoch."""
        return self._catalog.runs.epochs(self.job(id).id)

    def job_steps(self, id: str, after: int, limit: int = STEP_POINTS_MAX) -> list[StepMetrics]:
        """Return the points of steps of a job's run: those after step `after`, at most `limit`."""
        return self._catalog.runs.steps(self.job(id).id, after=after, limit=min(limit, STEP_POINTS_MAX))

    def job_history(self, id: str) -> RunMetrics:
        """Return all metrics of a job's run."""
        return self._catalog.runs.history(self.job(id).id)

    def job_logs(self, id: str) -> str:
        """Return a job's log so far; NotFoundError if Ray has none."""
        return self._jobs.logs(self.job(id))

    def cancel_job(self, id: str) -> Job:
        """Stop a job; ConflictError if it has ended."""
        return self._jobs.cancel(self.job(id))

    # -- endpoints ----------------------------------------------------------

    def deploy(self, spec: dict[str, object]) -> Endpoint:
        """Write down what an endpoint should be; the control loop makes it so.

        Raises:
            RequestError: The specification is invalid, its model cannot be divided as `parallel` says, or the members
                of its graph do not fit.
            NotFoundError: Its model, version or alias does not exist, or that of a candidate, or a masking policy.
        """
        parsed = parse_spec(EndpointSpec, spec, "The endpoint specification")
        if parsed.graph is not None:
            check_graph(parsed, self._catalog, self._registry)
            endpoint = self._catalog.endpoints.put(parsed)
            self._wake()
            return self._with_url(endpoint)
        reference: Reference = parse_reference(parsed.model)
        wanted = self._registry.resolve(AssetKind.MODEL, reference)
        check_divisible(parsed, lambda: self._registry.open(wanted).manifest.model)
        if parsed.log.predictions.sample:
            PolicyBook(self._catalog, self._registry.keyring).get(parsed.log.predictions.masking)
        if parsed.traffic:
            self._check_traffic(parsed.traffic)
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

    def _check_traffic(self, traffic: TrafficSpec) -> None:
        for candidate in traffic.candidates:
            self._registry.resolve(AssetKind.MODEL, parse_reference(candidate.model))
        if traffic.differences.masking:
            PolicyBook(self._catalog, self._registry.keyring).get(traffic.differences.masking)

    def endpoints(self) -> list[Endpoint]:
        """Return all endpoints."""
        return [self._with_url(endpoint) for endpoint in self._catalog.endpoints.list()]

    def endpoint(self, name: str) -> Endpoint:
        """Return one endpoint; NotFoundError if there is none."""
        return self._with_url(self._catalog.endpoints.get(name))

    def delete_endpoint(self, name: str) -> Endpoint:
        """Take an endpoint away.

        Raises:
            NotFoundError: There is none.
            ConflictError: A graph calls it.
        """
        graphs = members_of(name, self._catalog.endpoints.list())
        if graphs:
            raise ConflictError(f"Endpoint {name!r} is part of graph {graphs[0]!r}; delete or change that first.")
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


def _short(job: Job) -> Job:
    if "tuning" not in job.result:
        return job
    return job.model_copy(update={"result": {key: value for key, value in job.result.items() if key != "tuning"}})


def _plain(resources: Mapping[str, float]) -> dict[str, float]:
    """Leave out Ray's internal resources (one per node)."""
    return {key: value for key, value in sorted(resources.items()) if ":" not in key}
