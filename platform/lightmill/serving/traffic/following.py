"""Plans on their way to the replicas of a stable version: written to the board, looked at twice a second.

An endpoint without candidates pays one look at a small table every `POLL_S`, in a thread, and a comparison with None a
request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from lightmill.errors import LightmillError
from lightmill.records.references import VersionId
from lightmill.records.traffic import TrafficPlan
from lightmill.registry import RegistryLocation
from lightmill.serving.board import Board
from lightmill.serving.signals.reporting import Worker
from lightmill.serving.traffic.differences import DifferenceLog, seal_differences
from lightmill.serving.traffic.traffic import Traffic

PLANS = "traffic/"
POLL_S = 0.5
logger = logging.getLogger("lightmill.serving")


class PlanWatcher:
    """A replica's side: hands every new plan to `apply`. What it cannot read leaves the plan of before."""

    def __init__(self, board: Board, endpoint: str, apply: Callable[[TrafficPlan | None], None]) -> None:
        self._board = board
        self._key = PLANS + endpoint
        self._apply = apply
        self._last: bytes | None = None

    def step(self) -> bool:
        """Look once; return whether another plan was applied."""
        data = self._board.get(self._key)
        if data == self._last:
            return False
        self._last = data
        self._apply(TrafficPlan.model_validate_json(data) if data else None)
        return True


def write_plan(board: Board, endpoint: str, plan: TrafficPlan | None) -> bool:
    """Write a plan, unless it stands there; return whether something was written."""
    data = plan.model_dump_json().encode() if plan else None
    if board.get(PLANS + endpoint) == data:
        return False
    if data is None:
        board.delete(PLANS + endpoint)
    else:
        board.put(PLANS + endpoint, data)
    return True


class TrafficFollower:
    """Keeps one replica's traffic as the board says, and writes what its shadows answered otherwise.

    `live` is told whether there are candidates at all, so that a service without any does not ask for them.
    """

    def __init__(
        self,
        endpoint: str,
        version: VersionId,
        location: RegistryLocation,
        traffic: Traffic,
        live: Callable[[bool], None],
        board: Board,
    ) -> None:
        self._endpoint = endpoint
        self._version = version
        self._location = location
        self._traffic = traffic
        self._live = live
        self._log: DifferenceLog | None = None
        self._logged: tuple[object, ...] | None = None
        self._watcher = PlanWatcher(board, endpoint, self._follow)
        self._worker = Worker(self._watcher.step, self._flush, every_s=POLL_S)

    def start(self) -> None:
        """Look once, then go on in a thread that ends with the process."""
        try:
            self._watcher.step()
        except (LightmillError, ValueError) as exc:
            logger.error("the traffic plan of endpoint %s cannot be read: %s", self._endpoint, exc)
        self._worker.start()

    def close(self) -> None:
        """End, with the rest written."""
        self._worker.close()
        if self._log is not None:
            self._log.flush(everything=True)

    def dropped(self) -> int:
        """Return how many requests the log of differences dropped."""
        return self._log.dropped if self._log else 0

    def _follow(self, plan: TrafficPlan | None) -> None:
        targets = plan.targets if plan else ()
        if plan is not None and any(target.shadow for target in targets):
            self._keep(plan)
        self._traffic.follow(plan if targets else None)
        self._live(bool(targets))

    def _keep(self, plan: TrafficPlan) -> None:
        """Open the log of differences that a plan asks for, unless it is open."""
        wanted = (plan.differences, plan.masking)
        if self._log is not None and self._logged == wanted:
            return
        from lightmill.masking import Masker

        if self._log is not None:
            self._log.flush(everything=True)
        registry = self._location.open()
        masker = None
        if plan.masking is not None:
            masker = Masker(plan.masking, registry.keyring.masking_key(self._location.workspace))
        write = seal_differences(registry, self._endpoint, self._version)
        self._log = DifferenceLog(plan.differences, str(self._version), write, masker)
        self._logged = wanted
        self._traffic.offer = self._log.offer

    def _flush(self) -> None:
        if self._log is not None:
            self._log.flush()
