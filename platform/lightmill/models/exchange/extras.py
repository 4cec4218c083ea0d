"""Optional packages: loaded when they are needed, and named with their extra when they are missing."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lightmill.errors import RequestError


def need(module: str, extra: str, what: str) -> Any:
    """Import an optional package.

    Raises:
        RequestError: It is not installed, or cannot be loaded; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise RequestError(
            f"{what} needs the package {module.partition('.')[0]!r} ({exc}). "
            f"Install it with: pip install 'lightmill[{extra}]'"
        ) from exc


def versions_of(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
