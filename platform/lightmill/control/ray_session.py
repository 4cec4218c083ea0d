"""A driver's connection to Ray."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from lightmill.errors import UnavailableError


@contextmanager
def session(address: str | None, num_cpus: int, num_gpus: int | None) -> Iterator[None]:
    """Connect to the Ray at `address`, or start one on this machine; disconnect at the end.

    Raises:
        UnavailableError: Ray does not answer at the address.
    """
    options = {"logging_level": logging.WARNING, "log_to_driver": True, "namespace": "lightmill"}
    try:
        if address:
            ray.init(address=address, **options)
        else:
            ray.init(address="local", num_cpus=num_cpus, num_gpus=num_gpus, include_dashboard=False, **options)
    except (ConnectionError, RuntimeError) as exc:
        raise UnavailableError(
            f"Ray does not answer at {address or 'this machine'}: {exc}. See `lightmill status`."
        ) from exc
    try:
        yield
    finally:
        ray.shutdown()
