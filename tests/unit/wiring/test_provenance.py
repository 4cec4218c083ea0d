"""What is captured of code: a real git checkout, with changes, new files, secrets and large files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lightmill.wiring.provenance import DIFF_MAX_BYTES, capture, code_of


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text("width = 1\n")
    (tmp_path / "data.bin").write_bytes(b"\0\1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "-c", "user.name=n", "-c", "user.email=n@example.com", "commit", "-qm", "first")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    found = code_of(checkout)
    assert found.commit == git(checkout, "rev-parse", "HEAD").strip()
    assert (found.dirty, found.diff, found.left_out) == (False, "", ())


def test_changes_and_new_code_are_a_diff_that_git_applies(checkout: Path) -> None:
    (checkout / "net.py").write_text("width = 2\n")
    (checkout / "sub").mkdir()
    (checkout / "sub" / "spec.yaml").write_text("model: m\n")
    found = code_of(checkout / "sub")
    assert found.dirty and found.left_out == ()
    git(checkout, "stash", "-u", "-q")
    (checkout / "captured.patch").write_text(found.diff)
    git(checkout, "apply", "captured.patch")
    assert (checkout / "net.py").read_text() == "width = 2\n"
    assert (checkout / "sub" / "spec.yaml").read_text() == "model: m\n"


def test_secrets_binaries_data_and_what_is_too_large_are_named_and_left_out(checkout: Path) -> None:
    (checkout / "net.py").write_text("password = 'hunter2-correct-horse'\n")
    (checkout / "data.bin").write_bytes(b"\0\2")
    (checkout / ".env").write_text("A=hunter2-plain\n")
    (checkout / "server.key").write_text("hunter2-key")
    (checkout / "rows.csv").write_text("hunter2,row\n")
    (checkout / "long.py").write_text("x = 1\n" * DIFF_MAX_BYTES)
    (checkout / "short.py").write_text("y = 1\n")
    found = code_of(checkout)
    left_out = dict(said.split(": ", 1) for said in found.left_out)
    assert left_out.keys() == {"net.py", "data.bin", ".env", "server.key", "rows.csv", "long.py"}
    assert "secret" in left_out["net.py"] and "secret" in left_out[".env"] and "not text" in left_out["data.bin"]
    assert "hunter2" not in found.diff and "+y = 1" in found.diff and found.dirty


def test_all_packages_are_captured_and_little_of_it_is_listed(checkout: Path) -> None:
    (checkout / "net.py").write_text("width = 2\n")
    found = capture({"a": 1}, checkout, "job-1")
    assert {"python", "torch", "pydantic"} <= found.environment.keys()
    listed = found.listed()
    assert (listed.environment, listed.code.diff) == ({}, "")
    assert (listed.code.commit, listed.code.dirty, listed.packages) == (found.code.commit, True, found.packages)
    assert found.code.diff not in repr(found)
