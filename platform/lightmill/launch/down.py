"""Ends what `up` started, and nothing else."""

from __future__ import annotations

import contextlib

import psutil

from lightmill.errors import NotFoundError, RequestError
from lightmill.launch.state import PlatformState, platform_processes, read_state
from lightmill.settings import Settings
from lightmill.spilling import remove_node_spill

GRACE_S = 8.0
KILL_S = 10.0
ROUNDS = 3


def down(settings: Settings) -> int:
    """Stop the platform of this home; return how many processes were ended.

    What is desired (endpoints, aliases) stays in the catalog and comes back with the next `up`.

    Raises:
        NotFoundError: Nothing was started here.
        RequestError: It runs on a Ray that somebody else started.
    """
    state = read_state(settings)
    if state is None:
        raise NotFoundError(f"No platform was started from {settings.home}; there is nothing to stop.")
    if not state.owns_ray:
        raise RequestError(
            f"The platform runs on the Ray at {state.ray_address}, which it did not start. Stop that Ray (`ray down "
            "cluster.yaml` on a cluster); endpoints come back with the next `lightmill up`."
        )
    ended = end_processes(state)
    remove_node_spill(settings)
    settings.process_path.unlink(missing_ok=True)
    return ended


def end_processes(state: PlatformState) -> int:
    """Ask the platform's processes to end, then end those that did not; return how many there were."""
    if not state.owns_ray:
        return 0
    first = platform_processes(state)
    _signal(first, kill=False)
    psutil.wait_procs(first, timeout=GRACE_S)
    for _ in range(ROUNDS):
        rest = platform_processes(state)
        if not rest:
            break
        _signal(rest, kill=True)
        psutil.wait_procs(rest, timeout=KILL_S)
    return len(first)


def _signal(processes: list[psutil.Process], *, kill: bool) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if kill:
                process.kill()
            else:
                process.terminate()
