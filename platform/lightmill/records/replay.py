"""Replays: a run done again, and whether the same weights came out."""

from __future__ import annotations

from pydantic import Field, ValidationError

from lightmill.errors import ConflictError, RequestError
from lightmill.records.assets import CodeState, HardwareState, Provenance
from lightmill.records.base import Record
from lightmill.records.jobs import Job, JobKind, JobState
from lightmill.records.references import Reference, VersionId, parse_reference
from lightmill.records.specs import Spec
from lightmill.records.tuning import TrialTable

MAIN_PACKAGES = frozenset(
    {"python", "torch", "numpy", "ray", "lightmill", "triton", "transformers", "tokenizers", "peft"}
)


class ReplaySpec(Spec):
    """Which run is done again: the id of a job that trained a model version."""

    run: str


class Difference(Record):
    """Something that is not as it was; `matters` where it is known to change the bits of weights."""

    what: str
    then: str
    now: str
    matters: bool = False


class ReplayReport(Record):
    """What a replay came to. `digest` and `found` are SHA-256 of the safetensors files then and now.

    `metrics` has what was measured, then and now.
    """

    run: str
    version: VersionId
    dataset: VersionId
    deterministic: bool
    equal: bool
    digest: str
    found: str
    differences: tuple[Difference, ...] = ()
    metrics: dict[str, tuple[float | None, float | None]] = Field(default_factory=dict)


def version_of(job: Job) -> Reference:
    """Return the model version that a job registered.

    Raises:
        RequestError: It is no training or tuning job, or its weights come from several configurations.
        ConflictError: It has not succeeded.
    """
    if job.kind not in (JobKind.TRAIN, JobKind.TUNE):
        raise RequestError(f"Job {job.id} is of kind {job.kind}; only runs of train and tune can be replayed.")
    if job.state is not JobState.SUCCEEDED:
        raise ConflictError(f"Job {job.id} is {job.state}; a run can be replayed when it has succeeded.")
    try:
        table = TrialTable.model_validate(job.result["tuning"]) if job.kind is JobKind.TUNE else None
        version = parse_reference(str(job.result["model_version"]))
    except (KeyError, ValidationError) as exc:
        raise RequestError(f"Job {job.id} says of no model version that it registered; it cannot be replayed.") from exc
    best = next((trial for trial in table.trials if trial.number == table.best), None) if table else None
    if best and best.copied:
        raise RequestError(
            f"The best trial of {job.id} took over the weights of others while training; no single specification "
            "makes it again. Replay a job of another algorithm."
        )
    return version


def differences(then: Provenance, now: Provenance) -> tuple[Difference, ...]:
    """Return what is not as it was: code, packages and hardware, what matters first."""
    found = [
        *_code(then.code, now.code),
        *_packages(then.environment or then.packages, now.environment or now.packages),
        *_hardware(then.hardware, now.hardware),
    ]
    return tuple(sorted(found, key=lambda one: not one.matters))


def _code(then: CodeState, now: CodeState) -> list[Difference]:
    found = []
    if then.commit != now.commit:
        found.append(Difference(what="code commit", then=then.commit or "none", now=now.commit or "none", matters=True))
    if (then.diff, then.left_out) != (now.diff, now.left_out) or then.dirty != now.dirty:
        found.append(Difference(what="code not committed", then=_said(then), now=_said(now), matters=True))
    return found


def _said(code: CodeState) -> str:
    if not code.dirty:
        return "nothing"
    lines = sum(line[:1] in "+-" and line[:3] not in ("+++", "---") for line in code.diff.splitlines())
    return f"{lines} lines" + (f", {len(code.left_out)} files left out" if code.left_out else "")


def _packages(then: dict[str, str], now: dict[str, str]) -> list[Difference]:
    return [
        Difference(
            what=f"package {name}",
            then=then.get(name, "none"),
            now=now.get(name, "none"),
            matters=name in MAIN_PACKAGES,
        )
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]


def _hardware(then: HardwareState | None, now: HardwareState | None) -> list[Difference]:
    if then is None or now is None:
        same = then is now
        return [] if same else [Difference(what="hardware", then=_known(then), now=_known(now))]
    old, new = then.model_dump(), now.model_dump()
    return [
        Difference(what=f"hardware {name}", then=str(old[name]), now=str(new[name]), matters=name != "system")
        for name in old
        if old[name] != new[name]
    ]


def _known(state: HardwareState | None) -> str:
    return "not recorded" if state is None else state.processor
