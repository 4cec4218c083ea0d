"""The ranks of a divided replica as Ray actors in its placement group, driven and watched by the replica.

A group lives and ends as one. The moment Ray knows that a rank's process has ended, or a rank fails in a batch or is
not done in time, all others are ended too and nothing is computed any more; `check`, which Serve's health check asks,
says so, and Serve starts another replica.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import nn

from lightmill.datasets.translate import original_error
from lightmill.errors import LightmillError, UnavailableError
from lightmill.records.parallel import ParallelSpec
from lightmill.records.references import VersionId
from lightmill.records.specs import EndpointSpec
from lightmill.registry import RegistryLocation
from lightmill.serving.parallel.rank import LOOPBACK, Array, Rank, RankReport, RankSetting

START_S = 300.0
INLINE_BYTES = 64 << 10
_WATCH = "watch"
logger = logging.getLogger("lightmill.serving")


class RankActor(Rank):
    """A rank in a process of its own."""

    def where(self) -> tuple[str, str]:
        """Return the id of the node and its address."""
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()


class RankGroup:
    """The ranks of one replica.

    Attributes:
        reports: What each rank has read.
    """

    def __init__(self, actors: Sequence[Any], spec: ParallelSpec) -> None:
        self.reports: list[RankReport] = []
        self._actors = list(actors)
        self._spec = spec
        self._ended = ""
        self._lock = threading.Lock()

    def check(self) -> None:
        """Check that all ranks are there.

        Raises:
            UnavailableError: One has ended, and with it the group.
        """
        if self._ended:
            raise UnavailableError(f"{self._ended} The replica starts anew as a whole; ask again in a moment.")

    def prepare(self) -> None:
        """Let the ranks find one another and load their parts.

        Raises:
            RequestError: The model cannot be divided so.
            IntegrityError: Stored bytes are not what was written.
            UnavailableError: A rank ended, or they were not ready in time.
        """
        threading.Thread(target=self._watch, name="rank-watcher", daemon=True).start()
        places = self._all("where", limit_s=START_S)
        together = len({node for node, _ in places}) == 1
        host = LOOPBACK if together else places[0][1]
        port = self._get([self._actors[0].invite.remote(host)], START_S)[0]
        self._all("join", host, port, limit_s=START_S)
        self.reports = self._all("load", limit_s=START_S)
        for rank, report in enumerate(self.reports):
            logger.info("rank %d read %d of the model's %d bytes", rank, report.read_bytes, report.model_bytes)

    def compute(self, inputs: tuple[Array, ...]) -> Array:
        """Return what the whole module gives for a batch.

        Raises:
            UnavailableError: A rank ended, failed or was not done in time; the group has ended.
        """
        self.check()
        large = sum(value.nbytes for value in inputs) > INLINE_BYTES
        given = ray.put(inputs) if large else inputs
        found = self._all("compute", given, limit_s=self._spec.timeout_s)
        return next(one for one in found if one is not None)

    def end(self, why: str) -> None:
        """End all ranks; the first reason counts."""
        with self._lock:
            if self._ended:
                return
            self._ended = why
        for actor in self._actors:
            ray.kill(actor)

    def _all(self, method: str, *arguments: Any, limit_s: float) -> list[Any]:
        return self._get([getattr(actor, method).remote(*arguments) for actor in self._actors], limit_s)

    def _get(self, refs: list[Any], limit_s: float) -> list[Any]:
        """Return results, or end the group with the first that fails."""
        try:
            left, end = list(refs), time.monotonic() + limit_s
            while left:
                done, left = ray.wait(left, num_returns=1, timeout=max(0.0, end - time.monotonic()))
                if not done:
                    raise GetTimeoutError(f"not done in {limit_s:g} s")
                ray.get(done)
            return ray.get(refs)
        except (RayActorError, RayTaskError, GetTimeoutError) as exc:
            original = original_error(exc)
            if not self._ended:
                logger.error("a rank failed, all of this replica end: %s", _short(exc))
            self.end("A rank of this replica failed or was not done in time.")
            if isinstance(original, LightmillError):
                raise type(original)(original.message) from exc
            self.check()
            raise AssertionError("an ended group does not check") from exc

    def _watch(self) -> None:
        """Wait until a rank ends; they never end by themselves."""
        refs = [actor.stay.options(concurrency_group=_WATCH).remote() for actor in self._actors]
        done, _ = ray.wait(refs, num_returns=1)
        if not self._ended:
            logger.error("rank %d has ended, and so do all of this replica", refs.index(done[0]))
        self.end(f"Rank {refs.index(done[0])} of this replica has ended.")


class Divided(nn.Module):
    """Stands for the module that a group computes."""

    def __init__(self, group: RankGroup) -> None:
        super().__init__()
        self._group = group

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return float32 outputs on the CPU; see `RankGroup.compute` for errors."""
        return torch.from_numpy(np.array(self._group.compute(tuple(value.cpu().numpy() for value in inputs))))


def start_group(spec: EndpointSpec, version: VersionId, location: RegistryLocation) -> RankGroup | None:
    """Return the ranks of the replica that calls it, ready; None if its model is not divided.

    Raises:
        RequestError: The model cannot be divided so.
        IntegrityError: Stored bytes are not what was written.
        UnavailableError: A rank ended, or they were not ready in time.
    """
    parallel = spec.parallel
    if parallel is None:
        return None
    kind: Any = ray.remote(concurrency_groups={_WATCH: 1})(RankActor)  # pyright: ignore[reportCallIssue]
    placed = get_current_placement_group()
    if placed is None:
        raise AssertionError("a divided replica is started in a placement group")
    actors = [
        kind.options(
            num_cpus=spec.resources.cpus,
            num_gpus=spec.resources.gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=placed, placement_group_bundle_index=rank + 1
            ),
        ).remote(
            RankSetting(
                spec=parallel,
                rank=rank,
                version=version,
                location=location,
                threads=spec.resources.threads,
                gpu=spec.resources.gpus > 0,
            )
        )
        for rank in range(parallel.ranks)
    ]
    group = RankGroup(actors, parallel)
    group.prepare()
    return group


def _short(exc: BaseException) -> str:
    cause = getattr(exc, "cause", None) or exc
    text = str(cause).strip()
    return f"{type(cause).__name__}: {text.splitlines()[-1][:200] if text else 'no reason given'}".rstrip(".")
