"""A small MLflow tracking server on a real socket: what its REST API 2.0 answers, as far as Lightmill asks it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.http_fake import Answer, HttpFake, Seen

PREFIX = "/api/2.0/mlflow/"


@dataclass(kw_only=True)
class TrackedRun:
    experiment: str
    tags: dict[str, str]
    status: str = "RUNNING"
    parameters: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


class FakeTracking(HttpFake):
    """Keeps experiments and runs; refuses what the real one refuses, as far as it matters here."""

    def __init__(self) -> None:
        super().__init__()
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, TrackedRun] = {}

    def answer(self, seen: Seen) -> Answer:
        parts = urlsplit(seen.path)
        assert parts.path.startswith(PREFIX), seen.path
        asked = json.loads(seen.body) if seen.body else {k: v[0] for k, v in parse_qs(parts.query).items()}
        method = getattr(self, "_" + re.sub(r"\W", "_", parts.path.removeprefix(PREFIX)))
        status, body = method(asked)
        return Answer(status=status, body=json.dumps(body).encode())

    def _experiments_get_by_name(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = asked["experiment_name"]
        if name not in self.experiments:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no experiment {name}"}
        return 200, {"experiment": {"experiment_id": self.experiments[name], "name": name}}

    def _experiments_create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        self.experiments[asked["name"]] = str(len(self.experiments) + 1)
        return 200, {"experiment_id": self.experiments[asked["name"]]}

    def _runs_search(self, asked: dict[str, Any]) -> tuple[int, Any]:
        wanted = re.fullmatch(r"tags\.`(.+)` = '(.+)'", asked["filter"])
        assert wanted is not None
        found = [
            {"info": {"run_id": id}}
            for id, run in self.runs.items()
            if run.experiment in asked["experiment_ids"] and run.tags.get(wanted[1]) == wanted[2]
        ]
        return 200, {"runs": found[: asked["max_results"]]} if found else {}

    def _runs_create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        id = f"{len(self.runs):032x}"
        tags = {tag["key"]: tag["value"] for tag in asked["tags"]}
        self.runs[id] = TrackedRun(experiment=asked["experiment_id"], tags=tags)
        return 200, {"run": {"info": {"run_id": id}}}

    def _runs_log_batch(self, asked: dict[str, Any]) -> tuple[int, Any]:
        metrics, parameters = asked.get("metrics", []), asked.get("params", [])
        too_long = any(len(one["value"]) > 500 for one in parameters)
        if len(metrics) > 1000 or len(parameters) > 100 or too_long:
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "too much at once"}
        run = self.runs[asked["run_id"]]
        for one in metrics:
            if not re.fullmatch(r"[\w\-. /]+", one["key"], re.ASCII):
                return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": one["key"]}
            run.metrics.setdefault(one["key"], []).append((one["step"], one["value"]))
        run.parameters |= {one["key"]: one["value"] for one in parameters}
        return 200, {}

    def _runs_update(self, asked: dict[str, Any]) -> tuple[int, Any]:
        self.runs[asked["run_id"]].status = asked["status"]
        return 200, {"run_info": {"run_id": asked["run_id"]}}
