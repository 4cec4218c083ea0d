"""What made a version: code revision with what was not committed, packages, specification, job."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import lightmill
from lightmill.masking.credentials import API_KEY, URL_CREDENTIALS
from lightmill.records.assets import CodeState, Provenance

PACKAGES = ("lightmill", "ray", "torch", "numpy", "pyarrow", "safetensors", "cryptography")
GIT_TIMEOUT_S = 10
DIFF_MAX_BYTES = 256 << 10
NEW_FILES = frozenset({".py", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".json", ".sh", ".txt", ".lock"})
"""Files that git does not track yet are part of the difference where they are code or settings."""
_SECRET_NAMES = re.compile(
    r"(^|/)\.(env|netrc|npmrc|pypirc|git-credentials|pgpass|ssh|aws)|\.(pem|key|p12|pfx|jks|kdbx|token|asc|gpg)$"
    r"|id_(rsa|dsa|ecdsa|ed25519)|secret|credential|passw|keyring|service[-_]?account",
    re.IGNORECASE,
)


def capture(spec: dict[str, object], folder: Path, job: str | None) -> Provenance:
    """Return the provenance of work on `spec`, whose files lie in `folder`."""
    return Provenance(job=job, code=code_of(folder), packages=_packages(), environment=_environment(), spec=spec)


def code_of(folder: Path) -> CodeState:
    """Return the git revision of the specification's folder, else of Lightmill's own source, else nothing.

    Its `diff` has at most `DIFF_MAX_BYTES`, file by file: a file is left out whole and named when it would not fit,
    when its name is that of a secret, when it holds what looks like one, or when it is not text.
    """
    for place in (folder, Path(lightmill.__file__).parent):
        commit, top = _git(place, "rev-parse", "HEAD").strip(), _git(place, "rev-parse", "--show-toplevel").strip()
        if commit and top:
            diff, left_out = _difference(Path(top))
            return CodeState(commit=commit, dirty=bool(diff or left_out), diff=diff, left_out=left_out)
    return CodeState()


def _difference(top: Path) -> tuple[str, tuple[str, ...]]:
    """Return what differs from the last commit as text, and the changed files that are not in it, with reasons."""
    tracked = _names(_git(top, "diff", "HEAD", "--name-only", "-z"))
    new = _names(_git(top, "ls-files", "--others", "--exclude-standard", "-z"))
    parts: list[str] = []
    left_out: list[str] = []
    room = DIFF_MAX_BYTES
    for name in (*tracked, *new):
        reason = _kept_aside(name, new=name in new)
        text = "" if reason else _file_difference(top, name, new=name in new)
        reason = reason or _unfit(text, room)
        if reason:
            left_out.append(f"{name}: {reason}")
            continue
        parts.append(text)
        room -= len(text.encode())
    return "".join(parts), tuple(left_out)


def _names(listed: str) -> list[str]:
    return [name for name in listed.split("\0") if name]


def _kept_aside(name: str, *, new: bool) -> str:
    if _SECRET_NAMES.search(name):
        return "named like a secret"
    return "new, and neither code nor settings" if new and Path(name).suffix not in NEW_FILES else ""


def _file_difference(top: Path, name: str, *, new: bool) -> str:
    """Return one file's difference; no program that git is told to call for it is run."""
    plain = ("--no-ext-diff", "--no-textconv", "--no-color")
    if new:
        return _git(top, "diff", *plain, "--no-index", "--", "/dev/null", name, differing=True)
    return _git(top, "diff", *plain, "HEAD", "--", name)


def _unfit(text: str, room: int) -> str:
    if len(text.encode()) > room:
        return f"more than the {DIFF_MAX_BYTES >> 10} KiB that are kept"
    if "\nBinary files " in text:
        return "not text"
    if any(
        next(detector.find(line, ""), None) for line in text.splitlines() for detector in (API_KEY, URL_CREDENTIALS)
    ):
        return "holds what looks like a secret"
    return ""


def _git(folder: Path, *arguments: str, differing: bool = False) -> str:
    """Return what git prints, nothing if it fails; `differing` takes the exit code 1 of a comparison for success."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - git is found as the user's shell finds it
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 or (differing and done.returncode == 1) else ""


def _packages() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _environment() -> dict[str, str]:
    """Return Python and every installed package with its version."""
    found = {one.metadata["Name"]: one.version for one in distributions() if one.metadata["Name"]}
    return {"python": platform.python_version(), **dict(sorted(found.items(), key=lambda item: item[0].lower()))}
