"""Modules of a user's own code, beside a specification: found, and made importable for the driver and for workers."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from lightmill.errors import RequestError
from lightmill.records.preparation import Python
from lightmill.registry import OpenVersion


def modules_in(folder: Path, functions: Iterable[str]) -> tuple[Path, ...]:
    """Return the files and packages of a folder that hold functions, named `package.module:function`.

    The folder is put at the end of this process's path, so that the driver finds them too; workers get them through
    Ray's runtime environment. What the folder does not hold must be installed on every node.

    Raises:
        RequestError: A module of this name is installed as well; which one is meant would be a guess.
    """
    tops = sorted({function.partition(":")[0].partition(".")[0] for function in functions})
    found = {top: path for top in tops for path in (folder / top, folder / f"{top}.py") if path.exists()}
    for top, path in found.items():
        if str(folder) not in sys.path and importlib.util.find_spec(top) is not None:
            raise RequestError(f"{path} has the name of a module that is installed here; rename one of them.")
    if found and str(folder) not in sys.path:
        sys.path.append(str(folder))
    return tuple(found.values())


def training_functions(dataset: OpenVersion) -> list[str]:
    """Return the functions of `python` steps that a dataset leaves for training."""
    card = dataset.manifest.dataset
    steps = card.training.fitted.steps if card and card.training else ()
    return [step.function for step in steps if isinstance(step, Python)]
