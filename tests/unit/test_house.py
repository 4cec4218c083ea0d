"""The rules of the house that a tool can check."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lightmill

ROOT = Path(__file__).parents[2]
IN_THE_FIRST_LOCK = ("", "postgres", "notebook", "dev")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def test_the_folder_platform_is_no_package_since_it_would_hide_the_standard_library() -> None:
    assert not list((ROOT / "platform").glob("__init__.py*"))
    assert [path.name for path in (ROOT / "platform").iterdir() if path.name != "__pycache__"] == ["lightmill"]
    import platform

    assert platform.python_implementation() == "CPython"
    assert Path(platform.__file__).parent != ROOT / "platform"


def test_tests_are_imported_by_path_and_not_by_importlib() -> None:
    options = PROJECT["tool"]["pytest"]["ini_options"]
    assert "importlib" not in str(options)
    assert options["pythonpath"] == ["platform", "."]


def test_every_folder_with_tests_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_imports_go_down_only() -> None:
    # Without the cache, which goes by modification times and misses what a checkout brings.
    command = [tool("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_room_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "platform" / "lightmill").rglob("*.py")
        if not {"migrations", "generated"} & set(path.parts) and not path.read_text().startswith(('"""', "#!", 'r"""'))
    ]
    assert silent == []


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["version"] == lightmill.__version__


def test_the_readme_is_the_one_that_is_published() -> None:
    assert PROJECT["project"]["readme"] == "README.md"
    assert (ROOT / "README.md").is_file()
    for name in PROJECT["project"]["license-files"]:
        assert (ROOT / name).is_file()


def names_of(requirements: list[str]) -> set[str]:
    found = set()
    for line in requirements:
        match = re.match(r"[A-Za-z0-9._-]+", line)
        if match:
            found.add(re.sub(r"[-_.]+", "-", match[0]).lower())
    return found


def test_the_lock_pins_every_dependency() -> None:
    lines = [line.strip() for line in (ROOT / "requirements.lock").read_text().splitlines()]
    pinned = {line for line in lines if line and not line.startswith(("#", "-"))}
    loose = [line for line in pinned if "==" not in line and " @ " not in line]
    assert loose == []
    project = PROJECT["project"]
    more = [line for line in (ROOT / "requirements-extra.lock").read_text().splitlines() if "==" in line]
    assert names_of(list(pinned)) & names_of(more) == set()
    for extra, wanted in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        locks = [*pinned] if extra in IN_THE_FIRST_LOCK else [*pinned, *more]
        assert names_of(wanted) - names_of(locks) - {"lightmill"} == set(), extra


def test_every_entry_point_exists() -> None:
    for target in PROJECT["project"]["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))
    for folder in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]:
        assert list((ROOT / folder).glob("*.py"))


def tracked() -> list[Path]:
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print("skipping: no git checkout")
        pytest.skip("no git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_no_tracked_file_holds_a_path_of_somebody_s_machine() -> None:
    machine = re.compile(r"(?<![\w./-])(?:/" + r"work/|/" + r"home/(?!u/|user/)\w|/" + r"Users/\w|/root/)")
    found = []
    for path in tracked():
        if not path.is_file() or path.stat().st_size > 5 << 20:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path == Path(__file__):
            continue
        found += [f"{path.relative_to(ROOT)}: {hit[0]}" for hit in machine.finditer(text)]
    assert found == []


def test_nothing_that_a_run_makes_is_tracked() -> None:
    names = [str(path.relative_to(ROOT)) for path in tracked()]
    assert [n for n in names if re.search(r"(^|/)(__pycache__|\.venv|\.lightmill|\.hypothesis)/|\.pyc$", n)] == []
    assert [n for n in names if n.endswith((".key", ".pem", "keyring.json"))] == []
