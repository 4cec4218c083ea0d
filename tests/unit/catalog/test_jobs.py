from __future__ import annotations

import pytest

from lightmill.catalog import Catalog
from lightmill.errors import ConflictError, NotFoundError, RequestError
from lightmill.records.jobs import JobKind, JobState, Progress
from tests.unit.catalog.examples import job

RUNNING, SUCCEEDED, FAILED = JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED


def test_a_job_comes_back_equal_with_its_time(catalog: Catalog) -> None:
    made = catalog.jobs.create(job(spec={"epochs": 3, "model": "digits"}))
    assert made.created.endswith("Z")
    assert catalog.jobs.get("job-1") == made
    full = job("job-2", created="2025-01-01T00:00:00.000Z", submission_id="s", started="x", finished="y")
    assert catalog.jobs.create(full) == full == catalog.jobs.get("job-2")


def test_an_id_is_used_once(catalog: Catalog) -> None:
    catalog.jobs.create(job())
    with pytest.raises(ConflictError, match="job-1"):
        catalog.jobs.create(job())


def test_a_missing_job_is_named(catalog: Catalog) -> None:
    with pytest.raises(NotFoundError, match="none yet"):
        catalog.jobs.get("job-9")
    catalog.jobs.create(job())
    with pytest.raises(NotFoundError, match="job-1"):
        catalog.jobs.update("job-9", message="x")


def test_the_newest_jobs_come_first(catalog: Catalog) -> None:
    for number in range(5):
        kind = JobKind.INGEST if number % 2 else JobKind.TRAIN
        catalog.jobs.create(job(f"job-{number}", kind=kind, created=f"2025-01-0{number + 1}T00:00:00.000Z"))
    assert [one.id for one in catalog.jobs.list(limit=2)] == ["job-4", "job-3"]
    assert [one.id for one in catalog.jobs.list(kind=JobKind.INGEST)] == ["job-3", "job-1"]
    with pytest.raises(RequestError, match="at least 1"):
        catalog.jobs.list(limit=0)


def test_update_changes_what_is_given_and_nothing_else(catalog: Catalog) -> None:
    made = catalog.jobs.create(job(spec={"a": 1}))
    progress = Progress(phase="training", done=3, total=10, unit="epochs")
    changed = catalog.jobs.update("job-1", state=RUNNING, progress=progress, submission_id="s1", started="now")
    assert changed == made.model_copy(
        update={"state": RUNNING, "progress": progress, "submission_id": "s1", "started": "now"}
    )
    done = catalog.jobs.update("job-1", state=SUCCEEDED, result={"model": "digits@1"}, finished="later")
    assert (done.result, done.progress, done.finished) == ({"model": "digits@1"}, progress, "later")
    assert catalog.jobs.update("job-1") == done == catalog.jobs.get("job-1")


def test_an_unexpected_state_is_a_conflict(catalog: Catalog) -> None:
    catalog.jobs.create(job())
    catalog.jobs.update("job-1", expect={JobState.PENDING}, state=RUNNING)
    with pytest.raises(ConflictError, match="is running, not pending"):
        catalog.jobs.update("job-1", expect={JobState.PENDING}, state=JobState.CANCELLED)
    with pytest.raises(ConflictError, match="is running, not pending"):
        catalog.jobs.update("job-1", expect={JobState.PENDING})
    assert catalog.jobs.get("job-1").state == RUNNING


@pytest.mark.parametrize("final", [state for state in JobState if state.final])
def test_a_final_state_is_never_left(catalog: Catalog, final: JobState) -> None:
    catalog.jobs.create(job())
    catalog.jobs.update("job-1", state=final)
    for state in set(JobState) - {final}:
        with pytest.raises(ConflictError, match=f"is {final}, which is final; it cannot become {state}"):
            catalog.jobs.update("job-1", state=state)
    assert catalog.jobs.update("job-1", state=final, message="why").message == "why"
    assert catalog.jobs.update("job-1", progress=Progress(done=1)).state == final


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_a_result_that_json_cannot_hold_is_refused(catalog: Catalog, value: object) -> None:
    catalog.jobs.create(job())
    with pytest.raises(RequestError, match="cannot keep"):
        catalog.jobs.update("job-1", state=SUCCEEDED, result={"loss": value})
    assert catalog.jobs.get("job-1").state == JobState.PENDING
