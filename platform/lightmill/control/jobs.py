"""Jobs as Ray jobs: submit a file of `jobs/`, follow it, stop it."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from pathlib import Path

import yaml
from ray.job_submission import JobStatus, JobSubmissionClient

import lightmill
from lightmill.catalog import Catalog
from lightmill.errors import ConflictError, NotFoundError, UnavailableError
from lightmill.records.base import now_iso
from lightmill.records.jobs import Job, JobKind, JobState
from lightmill.settings import Settings

RECENT_JOBS = 200
UNKNOWN_TO_RAY = "does not exist"
_STATES = {
    JobStatus.PENDING: JobState.PENDING,
    JobStatus.RUNNING: JobState.RUNNING,
    JobStatus.SUCCEEDED: JobState.SUCCEEDED,
    JobStatus.FAILED: JobState.FAILED,
    JobStatus.STOPPED: JobState.CANCELLED,
}


def entry_points() -> Path:
    """Return the folder of the job files: beside the source in a checkout, inside an installed package."""
    package = Path(lightmill.__file__).parent
    checkout = package.parents[1] / "jobs"
    return checkout if checkout.is_dir() else package / "_entrypoints" / "jobs"


class Jobs:
    """Submits and follows jobs; the catalog holds their rows, Ray runs them."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self._client: JobSubmissionClient | None = None

    def submit(self, kind: JobKind, name: str, spec: dict[str, object], folder: str, resume: str | None = None) -> Job:
        """Start a job for a checked specification; `folder` is where its relative paths begin.

        `resume` is the job that it goes on from.

        Raises:
            UnavailableError: Ray's job API does not answer.
        """
        job = self._catalog.jobs.create(
            Job(id=f"{kind}-{name}-{secrets.token_hex(4)}", kind=kind, name=name, spec=spec, created=now_iso())
        )
        path = self._settings.jobs_path.absolute() / job.id / "spec.yaml"
        script = str(entry_points() / f"{kind}.py")
        command = [sys.executable, script, str(path), "--job", job.id, f"--folder={folder}"]
        command += [f"--resume={resume}"] if resume else []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
            self._ray().submit_job(
                entrypoint=shlex.join(command),
                submission_id=job.id,
                metadata={"lightmill": f"{kind} {name}"},
            )
        except (OSError, RuntimeError, UnavailableError) as exc:
            self._catalog.jobs.update(
                job.id, state=JobState.FAILED, message=f"could not be started: {exc}", finished=now_iso()
            )
            raise UnavailableError(f"Job {job.id} could not be started: {exc}.") from exc
        return self._catalog.jobs.update(job.id, submission_id=job.id)

    def logs(self, job: Job) -> str:
        """Return everything that a job has logged so far.

        Raises:
            NotFoundError: Ray does not know the job: it ran outside Ray, or before the platform restarted.
        """
        if not job.submission_id or job.submission_id.startswith("pid:"):
            raise NotFoundError(f"Job {job.id} ran outside Ray's job API; its log went to its own terminal.")
        try:
            return self._ray().get_job_logs(job.submission_id)
        except (RuntimeError, OSError) as exc:
            raise NotFoundError(f"The log of job {job.id} is gone: it ran before the platform was restarted.") from exc

    def cancel(self, job: Job) -> Job:
        """Stop a job.

        Raises:
            ConflictError: It has ended already, or does not run under Ray's job API.
            UnavailableError: Ray did not stop it; it goes on.
        """
        if job.state.final:
            raise ConflictError(f"Job {job.id} has already ended: {job.state}.")
        submission = job.submission_id or ""
        if not submission or submission.startswith("pid:"):
            raise ConflictError(f"Job {job.id} does not run under Ray's job API; end its process itself.")
        try:
            self._ray().stop_job(submission)
        except (RuntimeError, OSError) as exc:
            raise UnavailableError(f"Ray did not stop job {job.id}: {exc}; it goes on.") from exc
        return self._catalog.jobs.update(
            job.id, state=JobState.CANCELLED, message="cancelled by the user", finished=now_iso()
        )

    def sync(self) -> None:
        """Bring rows up to what Ray reports, for jobs that died without writing their end."""
        for job in self._catalog.jobs.list(limit=RECENT_JOBS):
            if not job.state.final and job.submission_id:
                self._sync_one(job)

    def _sync_one(self, job: Job) -> None:
        state, message = self._observed(job)
        if state is None or state == job.state or (job.state == JobState.RUNNING and not state.final):
            return
        try:
            self._catalog.jobs.update(
                job.id,
                expect={job.state},
                state=state,
                message=message if state.final else "",
                finished=now_iso() if state.final else None,
            )
        except ConflictError:
            return  # the job wrote its own end meanwhile

    def _observed(self, job: Job) -> tuple[JobState | None, str]:
        submission = job.submission_id or ""
        if submission.startswith("pid:"):
            alive = Path(f"/proc/{submission.removeprefix('pid:')}").exists()
            return (None, "") if alive else (JobState.FAILED, "its process ended without a word; run it again")
        try:
            info = self._ray().get_job_info(submission)
        except (RuntimeError, OSError, UnavailableError) as exc:
            if UNKNOWN_TO_RAY not in str(exc):
                return None, ""  # busy or away for a moment: asked again next time
            return JobState.FAILED, "Ray does not know it any more: the platform was restarted; run it again"
        ended = f"Ray: {info.message or info.status}" if info.status != JobStatus.SUCCEEDED else ""
        return _STATES[info.status], ended

    def _ray(self) -> JobSubmissionClient:
        if self._client is None:
            host = "127.0.0.1" if self._settings.loopback else self._settings.host
            address = os.environ.get("RAY_API_SERVER_ADDRESS") or f"http://{host}:{self._settings.dashboard_port}"
            try:
                self._client = JobSubmissionClient(address)
            except (ConnectionError, RuntimeError) as exc:
                raise UnavailableError(f"Ray's job API at {address} does not answer: {exc}.") from exc
        return self._client
