"""An MLflow tracking server, by its REST API 2.0 (https://mlflow.org/docs/latest/rest-api.html): no package is needed.

A name and password, or a token, come from the variables that MLflow's own client reads: MLFLOW_TRACKING_USERNAME and
MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment of the job.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import httpx

from lightmill.errors import RequestError, UnavailableError
from lightmill.records.base import now_iso
from lightmill.records.jobs import EpochMetrics, StepMetrics
from lightmill.records.specs import TrainSpec
from lightmill.records.training import MlflowSpec
from lightmill.training.watching.loggers import MetricsLogger

TIMEOUT_S = 10.0
METRICS_AT_ONCE = 1000
PARAMETERS_MAX = 100
VALUE_MAX = 500
RUN_TAG = "lightmill.run"
_FOREIGN = re.compile(r"[^\w\-. /]", re.ASCII)


class MLflow(MetricsLogger):
    """A run of an experiment: parameters from the specification, metrics `step/<metric>` and `epoch/<metric>`.

    A run of Lightmill that goes on, goes on in MLflow: it is found by its tag `lightmill.run`.
    """

    def __init__(self, where: MlflowSpec, spec: TrainSpec, run: str) -> None:
        """Find or make the experiment and the run.

        Raises:
            RequestError: The server refuses.
            UnavailableError: It does not answer.
        """
        self._client = httpx.Client(
            base_url=where.tracking_uri.rstrip("/") + "/api/2.0/mlflow/", timeout=TIMEOUT_S, auth=_credentials()
        )
        experiment = self._experiment(where.experiment)
        self._run = self._found(experiment, run) or self._created(experiment, spec, run)

    def steps(self, points: Sequence[StepMetrics]) -> None:
        """See the base."""
        self._log([metric for point in points for metric in _metrics("step", point.step, point.metrics, point.created)])

    def epoch(self, metrics: EpochMetrics) -> None:
        """See the base."""
        self._log(list(_metrics("epoch", metrics.epoch, metrics.metrics, metrics.created)))

    def close(self, *, succeeded: bool) -> None:
        """See the base."""
        status = "FINISHED" if succeeded else "FAILED"
        self._ask("POST", "runs/update", {"run_id": self._run, "status": status, "end_time": _millis(now_iso())})
        self._client.close()

    def _log(self, metrics: list[dict[str, Any]]) -> None:
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            some = metrics[start : start + METRICS_AT_ONCE]
            self._ask("POST", "runs/log-batch", {"run_id": self._run, "metrics": some})

    def _experiment(self, name: str) -> str:
        try:
            found = self._ask("GET", "experiments/get-by-name", {"experiment_name": name})
            return found["experiment"]["experiment_id"]
        except RequestError as exc:
            if "RESOURCE_DOES_NOT_EXIST" not in exc.message:
                raise
        return self._ask("POST", "experiments/create", {"name": name})["experiment_id"]

    def _found(self, experiment: str, run: str) -> str | None:
        asked = {"experiment_ids": [experiment], "filter": f"tags.`{RUN_TAG}` = '{run}'", "max_results": 1}
        runs = self._ask("POST", "runs/search", asked).get("runs") or []
        if not runs:
            return None
        id = runs[0]["info"]["run_id"]
        self._ask("POST", "runs/update", {"run_id": id, "status": "RUNNING"})
        return id

    def _created(self, experiment: str, spec: TrainSpec, run: str) -> str:
        tags = [{"key": "mlflow.runName", "value": run}, {"key": RUN_TAG, "value": run}]
        asked = {"experiment_id": experiment, "start_time": _millis(now_iso()), "run_name": run, "tags": tags}
        id = self._ask("POST", "runs/create", asked)["run"]["info"]["run_id"]
        flat = list(_flat("", spec.model_dump(mode="json", exclude_none=True)))
        parameters = [{"key": key, "value": value[:VALUE_MAX]} for key, value in flat[:PARAMETERS_MAX]]
        self._ask("POST", "runs/log-batch", {"run_id": id, "params": parameters})
        return id

    def _ask(self, method: str, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            response = self._client.get(path, params=asked) if method == "GET" else self._client.post(path, json=asked)
        except httpx.HTTPError as exc:
            said = str(exc) or type(exc).__name__
            raise UnavailableError(f"MLflow at {self._client.base_url} does not answer: {said}.") from exc
        if response.status_code >= 500:
            raise UnavailableError(f"MLflow at {self._client.base_url} answered {response.status_code} to {path}.")
        if not response.is_success:
            raise RequestError(f"MLflow refused {path} with {response.status_code}: {response.text[:200]}")
        try:
            return response.json()
        except ValueError as exc:
            raise RequestError(
                f"{response.request.url} is no MLflow server; correct `watch.mlflow.tracking_uri`."
            ) from exc


def _credentials() -> httpx.Auth | None:
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if token:
        return _Bearer(token)
    name = os.environ.get("MLFLOW_TRACKING_USERNAME")
    return httpx.BasicAuth(name, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if name else None


class _Bearer(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # pyright: ignore[reportIncompatibleMethodOverride] - no response is needed
        request.headers["Authorization"] = self._header
        yield request


def _metrics(kind: str, number: int, metrics: Mapping[str, float], created: str) -> Iterator[dict[str, Any]]:
    for name, value in metrics.items():
        key = _FOREIGN.sub("_", f"{kind}/{name}")
        yield {"key": key, "value": value, "timestamp": _millis(created), "step": number}


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), inner)
    else:
        yield _FOREIGN.sub("_", path), str(value)


def _millis(created: str) -> int:
    return int(datetime.fromisoformat(created).timestamp() * 1000)
