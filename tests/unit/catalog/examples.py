"""Records for tests, and processes that start together."""

from __future__ import annotations

import hashlib
import multiprocessing
import traceback
from collections.abc import Callable
from typing import Any

from lightmill.records.assets import Provenance, VersionSummary
from lightmill.records.jobs import Job, JobKind
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.specs import EndpointSpec, ReplicasSpec

JOIN_TIMEOUT_S = 90


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def version_id(name: str, seq: int, kind: AssetKind = AssetKind.MODEL, salt: str = "") -> VersionId:
    return VersionId(kind=kind, name=name, seq=seq, digest=digest(f"{kind}{name}{seq}{salt}"))


def version(
    name: str,
    seq: int,
    *,
    kind: AssetKind = AssetKind.MODEL,
    salt: str = "",
    dataset: VersionId | None = None,
    mid: str | None = None,
) -> VersionSummary:
    return VersionSummary(
        id=version_id(name, seq, kind, salt),
        mid=mid or f"mid-{kind.value}-{name}",
        created=f"2025-01-{seq:02d}T00:00:00.000Z",
        size_bytes=2**40 + seq,
        metrics={"accuracy": 0.1 + 0.2, "loss": 1e-300},
        provenance=Provenance(dataset=dataset, run="run-1", spec={"epochs": 3, "ratio": 0.5}),
        card={"nested": {"classes": ["ä", "\u0000", "x"]}, "none": None},
    )


def spec(name: str = "digits", *, replicas: int = 1) -> EndpointSpec:
    return EndpointSpec(name=name, model="digits", replicas=ReplicasSpec(min=1, max=replicas))


def job(id: str = "job-1", **fields: object) -> Job:
    return Job.model_validate({"id": id, "kind": JobKind.TRAIN, "name": "digits", **fields})


def run_together(target: Callable[..., Any], *arguments: tuple) -> list[Any]:
    """Run `target(wait, *each)` in one process each, which wait for each other; return their results."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(len(arguments)), context.Queue()
    processes = [context.Process(target=_run, args=(target, barrier, queue, each)) for each in arguments]
    for process in processes:
        process.start()
    found = [queue.get(timeout=JOIN_TIMEOUT_S) for _ in processes]
    for process in processes:
        process.join(JOIN_TIMEOUT_S)
    failures = "\n".join(text for failed, text in found if failed)
    assert not failures, failures
    return sorted(result for _, result in found)


def _run(target: Callable[..., Any], barrier: Any, queue: Any, arguments: tuple) -> None:
    def wait() -> None:
        barrier.wait(JOIN_TIMEOUT_S)

    try:
        queue.put((False, target(wait, *arguments)))
    except Exception:  # noqa: BLE001 (the test that started us shows it)
        barrier.abort()
        queue.put((True, traceback.format_exc()))
