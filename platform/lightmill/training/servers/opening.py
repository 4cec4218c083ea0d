"""Where the servers of a run are: the leader starts them, the others are told and link up."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import ray
import torch.distributed as dist

from lightmill.training.servers.on_ray import find_actors, start_actors
from lightmill.training.servers.port import Servers
from lightmill.training.servers.shard import Array, ServerSetting
from lightmill.training.servers.sockets import Address, Listening, SocketServers
from lightmill.training.team import Team


def open_servers(team: Team, setting: ServerSetting, dealt: Sequence[Mapping[str, Array]]) -> Servers:
    """Return this worker's links to the servers of its run, which the leader starts; all workers call it together.

    Args:
        team: The workers of the run.
        setting: What the servers are told.
        dealt: The parameters of each server; the leader's are taken.

    On Ray they are actors, found by a name that is drawn anew each time: what is left of an earlier attempt of the run
    is never met. Without Ray they are threads of the leader's process.

    Raises:
        UnavailableError: They did not start, or are gone already.
    """
    told: list[str | Address | None] = [None]
    made: Servers | None = None
    if team.leads and ray.is_initialized():
        told[0] = f"lightmill-servers-{secrets.token_hex(8)}"
        made = start_actors(told[0], setting, dealt)
    elif team.leads:
        listening = Listening(setting, dealt)
        told[0] = listening.address
        made = SocketServers(listening.address, listening)
    if team.world > 1:
        dist.broadcast_object_list(told, src=0, device=team.device)
    if made is not None:
        return made
    found = told[0]
    return SocketServers(found) if isinstance(found, Address) else find_actors(str(found), len(dealt))
