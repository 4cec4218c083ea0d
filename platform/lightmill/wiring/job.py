"""The frame of every file in `jobs/`: arguments, Ray, a job row, progress, one JSON line, an exit code.

Nothing here imports ray before `connect` has put the platform's environment in place, since Ray reads its
settings when it is imported; for the same reason the work of a job imports its room inside.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightmill.errors import ConflictError, JobError, LightmillError, RequestError
from lightmill.records.assets import Provenance
from lightmill.records.base import now_iso
from lightmill.records.jobs import EpochMetrics, Job, JobKind, JobState, Progress, RunMetrics, StepMetrics
from lightmill.records.specs import Spec, SpecT, load_spec
from lightmill.settings import Settings
from lightmill.telemetry import configure_logging
from lightmill.wiring.bootstrap import bootstrap
from lightmill.wiring.log_masking import mask_logs
from lightmill.wiring.modules import modules_in
from lightmill.wiring.platform import Platform, open_platform
from lightmill.wiring.provenance import capture
from lightmill.wiring.session import connect

logger = logging.getLogger("lightmill.job")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """What a job's work gets. `earlier` is the job that it goes on from, if it was told one."""

    job: Job
    folder: Path
    platform: Platform
    provenance: Provenance
    earlier: Job | None = None

    def report(self, progress: Progress) -> None:
        """Show progress in the log and keep it in the catalog."""
        logger.info("%s", progress)
        self.platform.catalog.jobs.update(self.job.id, progress=progress)

    def note(self, result: dict[str, object]) -> None:
        """Keep what the job has found so far in its row; a job that goes on under the same id finds it there."""
        self.platform.catalog.jobs.update(self.job.id, result=result)

    def refuse_own_files(self, path: Path) -> None:
        """Raise RequestError if a source lies in the platform's home: its keys are no data."""
        if path.resolve().is_relative_to(self.platform.settings.home.resolve()):
            raise RequestError(f"{path} lies in the platform's own home; it cannot be a source.")

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Show an epoch's metrics in the log and keep them in the catalog."""
        shown = "  ".join(f"{key} {value:.4f}" for key, value in metrics.metrics.items())
        logger.info("epoch %d  %s", metrics.epoch, shown)
        self.platform.catalog.runs.record_epoch(metrics)

    def on_steps(self, points: list[StepMetrics], progress: Progress) -> None:
        """Keep points of steps, and how far the job is, in the catalog."""
        self.platform.catalog.runs.record_steps(points)
        self.platform.catalog.jobs.update(self.job.id, progress=progress)

    def recorded(self) -> RunMetrics:
        """Return all metrics of the run that are in the catalog, those of an earlier start of it too."""
        return self.platform.catalog.runs.history(self.job.id)


Work = Callable[[JobContext, SpecT], dict[str, object]]
Functions = Callable[[JobContext, SpecT], Iterable[str]]


def _none(context: JobContext, spec: object) -> tuple[str, ...]:
    return ()


def run_job(
    kind: JobKind,
    spec_kind: type[SpecT],
    name_of: Callable[[SpecT], str],
    work: Work[SpecT],
    functions: Functions[SpecT] = _none,
) -> int:
    """Run a job file: its one argument is the specification; return the exit code.

    `functions` names those that the work calls by import path; where the settings allow it, their modules are taken
    from the specification's folder.

    The last line on standard output is JSON: the result, or `{"error": ..., "type": ...}`.
    """
    arguments = _arguments(kind, sys.argv[1:])
    configure_logging()
    try:
        result = _run(kind, spec_kind, name_of, work, functions, arguments)
    except LightmillError as exc:
        if arguments.debug:
            traceback.print_exc()
        _last_line({"error": exc.message, "type": type(exc).__name__})
        return exc.exit_code
    _last_line(result)
    return 0


def _last_line(result: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(result) + "\n")


def _arguments(kind: JobKind, argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"Run one {kind} job from a YAML specification.")
    parser.add_argument("spec", help="path of the YAML specification")
    parser.add_argument("--job", help="id of the job row that the platform has made")
    parser.add_argument("--folder", help="where relative paths begin; the specification's folder if absent")
    parser.add_argument("--resume", help="id of a job with this specification that did not end well; go on from it")
    parser.add_argument("--debug", action="store_true", help="show stack traces of expected errors")
    return parser.parse_args(argv)


def _run(
    kind: JobKind,
    spec_kind: type[SpecT],
    name_of: Callable[[SpecT], str],
    work: Work[SpecT],
    functions: Functions[SpecT],
    arguments: argparse.Namespace,
) -> dict[str, object]:
    settings = Settings.read()
    path = Path(arguments.spec)
    spec = load_spec(spec_kind, path)
    folder = Path(arguments.folder or path.absolute().parent)
    bootstrap(settings)
    platform = open_platform(settings)
    earlier = _earlier(platform, kind, spec, arguments.resume) if arguments.resume else None
    job = _job_row(platform, kind, name_of(spec), spec.model_dump(mode="json"), arguments.job)
    platform.catalog.jobs.update(job.id, state=JobState.RUNNING, started=now_iso())
    context = JobContext(
        job=job,
        folder=folder,
        platform=platform,
        earlier=earlier,
        provenance=capture(spec.model_dump(mode="json"), folder, job.id),
    )
    try:
        mask_logs(platform)
        allowed = settings.allow_python_steps
        with connect(settings, modules_in(context.folder, functions(context, spec)) if allowed else ()):
            result = work(context, spec)
    except LightmillError as exc:
        _finish(platform, job, JobState.FAILED, message=exc.message)
        raise
    except Exception as exc:
        # Where log lines are masked, what a library says of a value is in the log only.
        said = type(exc).__name__ + ("; see its log" if settings.log_masking else f": {exc}")
        _finish(platform, job, JobState.FAILED, message=said)
        logger.exception("job %s failed unexpectedly", job.id)
        raise JobError(f"Job {job.id} failed unexpectedly: {said}") from exc
    _finish(platform, job, JobState.SUCCEEDED, result=result)
    return {"job": job.id, **result}


def _earlier(platform: Platform, kind: JobKind, spec: Spec, id: str) -> Job:
    """Return the job to go on from.

    Raises:
        NotFoundError: There is none with this id.
        RequestError: It is another kind of job, or one with another specification.
    """
    job = platform.catalog.jobs.get(id)
    if job.kind is not kind or job.spec != spec.model_dump(mode="json"):
        raise RequestError(f"Job {id} is no {kind} job with this very specification; start a new one without --resume.")
    return job


def _job_row(platform: Platform, kind: JobKind, name: str, spec: dict[str, object], known: str | None) -> Job:
    """Return the row that the control application made, or make one for a job submitted straight to Ray."""
    if known:
        return platform.catalog.jobs.get(known)
    return platform.catalog.jobs.create(
        Job(
            id=f"{kind}-{name}-{secrets.token_hex(4)}",
            kind=kind,
            name=name,
            spec=spec,
            submission_id=_submission_id() or f"pid:{os.getpid()}",
            created=now_iso(),
        )
    )


def _submission_id() -> str | None:
    """Return Ray's id of this job: its supervisor hands it to the driver in the job configuration."""
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return (config.get("metadata") or {}).get("job_submission_id")


def _finish(
    platform: Platform,
    job: Job,
    state: JobState,
    *,
    message: str = "",
    result: dict[str, object] | None = None,
) -> None:
    """Write the final state, unless the job was cancelled meanwhile."""
    try:
        platform.catalog.jobs.update(job.id, state=state, message=message, result=result, finished=now_iso())
    except ConflictError:
        logger.warning("job %s ended as %s after it was cancelled", job.id, state)
