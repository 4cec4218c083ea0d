"""What made a version: code revision, package versions, specification, job."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import lightmill
from lightmill.records.assets import CodeState, Provenance

PACKAGES = ("lightmill", "ray", "torch", "numpy", "pyarrow", "safetensors", "cryptography")
GIT_TIMEOUT_S = 10


def capture(spec: dict[str, object], folder: Path, job: str | None) -> Provenance:
    """Return the provenance of work on `spec`, whose files lie in `folder`."""
    return Provenance(job=job, code=_code(folder), packages=_packages(), spec=spec)


def _code(folder: Path) -> CodeState:
    """Return the git revision of the specification's folder, else of Lightmill's own source, else nothing."""
    for place in (folder, Path(lightmill.__file__).parent):
        commit = _git(place, "rev-parse", "HEAD")
        if commit:
            return CodeState(commit=commit, dirty=bool(_git(place, "status", "--porcelain")))
    return CodeState()


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - git is found as the user's shell finds it
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _packages() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
