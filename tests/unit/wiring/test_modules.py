from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightmill.errors import RequestError
from lightmill.wiring.modules import modules_in


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a package and a module; the path of this process is as before afterwards."""
    before = list(sys.path)
    (tmp_path / "steps_of_a_test").mkdir()
    (tmp_path / "steps_of_a_test" / "__init__.py").touch()
    (tmp_path / "one_step_of_a_test.py").touch()
    (tmp_path / "json.py").touch()
    yield tmp_path
    sys.path[:] = before


def test_only_the_modules_that_are_called_are_taken(folder: Path) -> None:
    asked = ["steps_of_a_test.inner:f", "steps_of_a_test:g", "one_step_of_a_test:f", "pyarrow.compute:add"]
    assert set(modules_in(folder, asked)) == {folder / "steps_of_a_test", folder / "one_step_of_a_test.py"}
    assert sys.path[-1] == str(folder)
    assert len(modules_in(folder, asked)) == 2
    assert sys.path.count(str(folder)) == 1


def test_nothing_changes_where_nothing_is_called(folder: Path) -> None:
    before = list(sys.path)
    assert modules_in(folder, []) == modules_in(folder, ["pyarrow:table"]) == ()
    assert sys.path == before


def test_a_name_that_is_installed_as_well_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"json\.py has the name of a module that is installed here"):
        modules_in(folder, ["json:loads"])
