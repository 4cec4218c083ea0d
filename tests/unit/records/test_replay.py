"""What a replay compares, and which jobs can be replayed."""

from __future__ import annotations

import pytest

from lightmill.errors import ConflictError, RequestError
from lightmill.records.assets import CodeState, HardwareState, Provenance
from lightmill.records.jobs import Job, JobKind, JobState
from lightmill.records.replay import differences, version_of
from lightmill.records.tuning import Trial, TrialTable

HARDWARE = HardwareState(
    machine="x86_64", processor="A", capability="AVX2", system="Linux 6", threads=1, workers=2, device=""
)
THEN = Provenance(
    code=CodeState(commit="c0ffee"), environment={"torch": "2.13", "rich": "13", "gone": "1"}, hardware=HARDWARE
)


def test_nothing_differs_from_itself() -> None:
    assert differences(THEN, THEN) == ()


def test_what_differs_is_named_and_what_changes_bits_comes_first() -> None:
    changed = CodeState(commit="beef", dirty=True, diff="--- a\n+++ b\n-x\n+y\n+z\n", left_out=("k.pem: named",))
    now = THEN.model_copy(
        update={
            "code": changed,
            "environment": {"torch": "2.14", "rich": "14", "python": "3.11"},
            "hardware": HARDWARE.model_copy(update={"processor": "B", "system": "Linux 7"}),
        }
    )
    found = {one.what: (one.then, one.now, one.matters) for one in differences(THEN, now)}
    assert found == {
        "code commit": ("c0ffee", "beef", True),
        "code not committed": ("nothing", "3 lines, 1 files left out", True),
        "package torch": ("2.13", "2.14", True),
        "package python": ("none", "3.11", True),
        "package rich": ("13", "14", False),
        "package gone": ("1", "none", False),
        "hardware processor": ("A", "B", True),
        "hardware system": ("Linux 6", "Linux 7", False),
    }
    matters = [one.matters for one in differences(THEN, now)]
    assert matters == sorted(matters, reverse=True)


def test_hardware_that_was_not_recorded_is_said() -> None:
    (found,) = differences(THEN.model_copy(update={"hardware": None}), THEN)
    assert (found.what, found.then, found.now) == ("hardware", "not recorded", "A")


def job(kind: JobKind = JobKind.TRAIN, state: JobState = JobState.SUCCEEDED, **result: object) -> Job:
    return Job(id="train-1", kind=kind, name="m", state=state, result={"model_version": "m@3", **result})


def test_a_run_that_registered_a_version_can_be_replayed() -> None:
    assert str(version_of(job())) == "m@3"


def table(copied: int) -> dict[str, object]:
    trial = Trial(number=0, values={}, copied=copied)
    found = TrialTable(job="j", metric="x", mode="min", wanted=1, algorithm="pbt", trials=(trial,), best=0)
    return found.model_dump(mode="json")


def test_so_can_a_best_trial_unless_it_took_over_weights() -> None:
    assert str(version_of(job(JobKind.TUNE, tuning=table(0)))) == "m@3"
    with pytest.raises(RequestError, match="no single specification"):
        version_of(job(JobKind.TUNE, tuning=table(1)))


def test_other_jobs_cannot() -> None:
    with pytest.raises(RequestError, match="only runs of train and tune"):
        version_of(job(JobKind.INGEST))
    with pytest.raises(ConflictError, match="running"):
        version_of(job(state=JobState.RUNNING))
    with pytest.raises(RequestError, match="no model version"):
        version_of(job(JobKind.TUNE))
