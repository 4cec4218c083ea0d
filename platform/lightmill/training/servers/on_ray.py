"""Servers as Ray actors; arrays travel through Ray's object store, and on one node they are mapped, not copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from lightmill.datasets.translate import original_error
from lightmill.errors import UnavailableError
from lightmill.training.servers.port import Servers
from lightmill.training.servers.server import Server
from lightmill.training.servers.shard import Array, ServerSetting

START_S = 180.0


def start_actors(name: str, setting: ServerSetting, dealt: Sequence[Mapping[str, Array]]) -> RayServers:
    """Start one actor for each share of parameters, on different nodes if there are any, and return the links to them.

    They ask for no CPU of their own, and end with the process that started them.

    Raises:
        UnavailableError: They did not start in time.
    """
    kind = ray.remote(Server)
    started: list[Any] = [
        kind.options(
            name=actor_name(name, number),
            num_cpus=0,
            max_concurrency=setting.workers + 2,
            scheduling_strategy="SPREAD",
        ).remote(setting, dict(values))
        for number, values in enumerate(dealt)
    ]
    _, late = ray.wait([one.names.remote() for one in started], num_returns=len(started), timeout=START_S)
    if late:
        for one in started:
            ray.kill(one)
        raise UnavailableError(f"{len(late)} of {len(started)} parameter servers did not start in {START_S:g} s.")
    return RayServers(started, owner=True)


def find_actors(name: str, count: int) -> RayServers:
    """Return links to servers that another worker of the run started.

    Raises:
        UnavailableError: They are gone.
    """
    try:
        return RayServers([ray.get_actor(actor_name(name, number)) for number in range(count)], owner=False)
    except ValueError as exc:
        raise UnavailableError(f"The parameter servers {name} are gone; the run begins from its checkpoint.") from exc


def actor_name(name: str, number: int) -> str:
    """Return the name of a server's actor in the namespace of the run's job."""
    return f"{name}-{number}"


class RayServers(Servers):
    """Links to actors."""

    def __init__(self, actors: Sequence[Any], *, owner: bool) -> None:
        self._actors = list(actors)
        self._owner = owner
        self._waiting: dict[Any, int] = {}
        self.count = len(self._actors)

    def begin(self, server: int, method: str, *arguments: Any) -> None:
        """See the base."""
        self._waiting[getattr(self._actors[server], method).remote(*arguments)] = server

    def answers(self) -> Iterator[tuple[int, Any]]:
        """See the base."""
        while self._waiting:
            done, _ = ray.wait(list(self._waiting), num_returns=1)
            server = self._waiting.pop(done[0])
            try:
                yield server, ray.get(done[0])
            except RayActorError as exc:
                raise UnavailableError(
                    f"Parameter server {server} is gone; the run goes on from its last checkpoint with new servers."
                ) from exc
            except RayTaskError as exc:
                original = original_error(exc)
                if original is None:
                    raise
                raise type(original)(original.message) from exc

    def close(self) -> None:
        """See the base."""
        if self._owner and ray.is_initialized():
            for actor in self._actors:
                ray.kill(actor)
        self._actors = []
