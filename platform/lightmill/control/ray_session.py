"""A driver's connection to Ray."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from lightmill.errors import UnavailableError


@contextmanager
def session(address: str, modules: Sequence[Path] = ()) -> Iterator[None]:
    """Connect to the Ray at `address`; disconnect at the end. Workers of the session can import `modules`.

    Raises:
        UnavailableError: Ray does not answer at the address.
    """
    with _connected(address, address=address, **_environment(modules)):
        yield


@contextmanager
def own_session(
    num_cpus: int, num_gpus: int | None, spill_folder: Path, modules: Sequence[Path] = ()
) -> Iterator[None]:
    """Start a Ray on this machine that ends with the `with` block and spills into `spill_folder`.

    Its workers can import `modules`.

    Raises:
        UnavailableError: Ray does not start.
    """
    options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "object_spilling_directory": str(spill_folder)}
    with _connected("this machine", address="local", include_dashboard=False, **options, **_environment(modules)):
        yield


def _environment(modules: Sequence[Path]) -> dict[str, Any]:
    return {"runtime_env": {"py_modules": [str(path) for path in modules]}} if modules else {}


@contextmanager
def _connected(where: str, **options: Any) -> Iterator[None]:
    try:
        ray.init(logging_level=logging.WARNING, log_to_driver=True, namespace="lightmill", **options)
    except Exception as exc:  # Ray raises bare Exception when its processes do not start in time
        raise UnavailableError(f"Ray does not answer at {where}: {exc}. See `lightmill status`.") from exc
    try:
        yield
    finally:
        ray.shutdown()
