"""Several processes write at once: nothing is lost, nothing is written twice, nobody fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lightmill.catalog import Catalog
from lightmill.errors import ConflictError
from lightmill.records.endpoints import EndpointState
from lightmill.records.jobs import EpochMetrics, JobState, Progress
from lightmill.records.references import AssetKind
from tests.unit.catalog.examples import job, run_together, spec, version

ROUNDS = 25
Wait = Callable[[], None]


def write_everything(wait: Wait, url: str, me: int) -> Any:
    with Catalog.open(url) as catalog:
        catalog.facts.get("warm")
        wait()
        for number in range(1, ROUNDS + 1):
            catalog.marks.raise_to("m", "v", number, str(number))
            catalog.versions.record(version("digits", number), "default")
            catalog.versions.set_alias(AssetKind.MODEL, "digits", "champion", number, number)
            catalog.endpoints.put(spec("shared", replicas=me * ROUNDS + number))
            catalog.endpoints.observe(
                "shared", state=EndpointState.READY, version=None, replicas=number, message=str(me)
            )
            catalog.runs.record_epoch(EpochMetrics(run=f"r{me}", epoch=number, metrics={}, created="t"))
            catalog.jobs.update("shared", progress=Progress(done=number))
        return "done"


def win_once(wait: Wait, url: str, me: int) -> Any:
    with Catalog.open(url) as catalog:
        catalog.facts.get("warm")
        wait()
        won = []
        for number in range(ROUNDS):
            try:
                catalog.jobs.update(f"job-{number}", expect={JobState.PENDING}, state=JobState.RUNNING)
                won.append(number)
            except ConflictError:
                pass
        fact = catalog.facts.set_once("store", str(me))
        return fact, won


def finish(wait: Wait, url: str, state: JobState) -> str:
    with Catalog.open(url) as catalog:
        catalog.facts.get("warm")
        wait()
        try:
            return catalog.jobs.update("job-1", state=state).state.value
        except ConflictError:
            return ""


def test_processes_write_the_same_rows_at_once(url: str, catalog: Catalog) -> None:
    catalog.jobs.create(job("shared"))
    assert run_together(write_everything, *((url, me) for me in range(3))) == ["done"] * 3
    assert catalog.marks.get("m", "v") == (ROUNDS, str(ROUNDS))
    assert len(catalog.versions.list(AssetKind.MODEL, "digits")) == ROUNDS
    assert catalog.versions.asset(AssetKind.MODEL, "digits").aliases == {"champion": ROUNDS}
    assert [len(catalog.runs.epochs(f"r{me}")) for me in range(3)] == [ROUNDS] * 3
    # every put had a spec of its own, so each of them counted exactly once
    assert catalog.endpoints.get("shared").revision == 3 * ROUNDS


def test_compare_and_set_has_one_winner(url: str, catalog: Catalog) -> None:
    for number in range(ROUNDS):
        catalog.jobs.create(job(f"job-{number}"))
    found = run_together(win_once, *((url, me) for me in range(3)))
    assert len({fact for fact, _ in found}) == 1
    assert sorted(number for _, won in found for number in won) == list(range(ROUNDS))


def test_a_job_ends_in_one_way(url: str, catalog: Catalog) -> None:
    catalog.jobs.create(job())
    ways = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
    found = run_together(finish, *((url, way) for way in ways))
    assert found[:2] == ["", ""]
    assert catalog.jobs.get("job-1").state == found[2]


def test_threads_share_a_catalog(catalog: Catalog) -> None:
    failures: list[Exception] = []

    def write(me: int) -> None:
        try:
            for number in range(10):
                catalog.facts.set_once(f"{me}-{number}", "x")
                catalog.endpoints.put(spec("shared", replicas=me * 10 + number + 1))
        except Exception as exc:  # noqa: BLE001 (shown below)
            failures.append(exc)

    threads = [threading.Thread(target=write, args=(me,)) for me in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert catalog.endpoints.get("shared").revision == 200
