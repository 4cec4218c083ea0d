"""A driver's connection to Ray."""

from __future__ import annotations

import logging
import os
import socket
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
    with (
        _in_environment(_own_address()),
        _connected("this machine", address="local", include_dashboard=False, **options, **_environment(modules)),
    ):
        yield


@contextmanager
def _in_environment(more: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _own_address() -> dict[str, str]:
    """Return a port for the Ray to come, and its address for Ray's processes.

    Without it they look into a file that any other Ray of this machine may have written, and wait for that one.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"{ray.util.get_node_ip_address()}:{port}"}


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
