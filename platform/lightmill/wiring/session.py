"""Connecting a driver to Ray: the cluster it runs in, the platform on this machine, or a Ray of its own."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightmill.settings import Settings
from lightmill.spilling import job_spill_folder

logger = logging.getLogger("lightmill.session")


def running_address(settings: Settings) -> str | None:
    """Return the address of the Ray that `lightmill up` started here, if its file says so."""
    try:
        found = json.loads(settings.process_path.read_text())
    except (OSError, ValueError):
        return None
    address = found.get("ray_address") if isinstance(found, dict) else None
    return address if isinstance(address, str) else None


@contextmanager
def connect(settings: Settings, modules: Sequence[Path] = ()) -> Iterator[None]:
    """Join Ray for the length of a `with` block; without a running platform, start one that ends with it.

    Ray's workers can import `modules`, files or folders of Python code.
    """
    os.environ.update(settings.node_environment())
    address = os.environ.get("RAY_ADDRESS") or running_address(settings)
    from lightmill.control.ray_session import own_session, session

    if address:
        os.environ["RAY_ADDRESS"] = address  # where Ray looks before any file of another Ray
        with session(address, modules):
            yield
        return
    logger.info("no platform runs here; starting a Ray of %d logical CPUs for this job", settings.num_cpus)
    with job_spill_folder(settings) as folder, own_session(settings.num_cpus, settings.num_gpus, folder, modules):
        yield
