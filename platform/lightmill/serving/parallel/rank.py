"""What one rank of a divided replica does, without Ray: join the group, load its part, compute its share of batches.

All ranks of a group are given the same batches in the same order. Of `tensor` all compute all rows together, and the
first has the answer. Of `pipeline` each computes its layers on pieces of the rows, so that stages work side by side,
and passes on what they return; the last has the answer (Y. Huang et al., "GPipe", 2019, without a backward pass).
"""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import TCPStore
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import init_device_mesh

from lightmill.errors import IntegrityError
from lightmill.records.parallel import ParallelSpec
from lightmill.records.references import VersionId
from lightmill.registry import RegistryLocation
from lightmill.serving.parallel.parts import Reading, pipeline_part, tensor_part

Array = npt.NDArray[Any]
LOOPBACK = "127.0.0.1"
JOIN_S = 120.0
_MOST_DIMENSIONS = 8
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSetting:
    """Where one rank stands, and what of."""

    spec: ParallelSpec
    rank: int
    version: VersionId
    location: RegistryLocation
    threads: int = 1
    gpu: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RankReport:
    """What a rank has: the bytes of tensors that it read, of all that the version has, and its process."""

    read_bytes: int
    model_bytes: int
    pid: int


class Rank:
    """One rank. `join`, then `load`, then `compute` for each batch; `stay` is for who watches whether it lives."""

    def __init__(self, setting: RankSetting) -> None:
        torch.set_num_threads(setting.threads)
        self._setting = setting
        self._device = torch.device("cuda" if setting.gpu and torch.cuda.is_available() else "cpu")
        self._store: TCPStore | None = None
        self._module: nn.Module = nn.Identity()

    def invite(self, host: str) -> int:
        """Open the place where the ranks find one another, and return its port; the first rank's to do."""
        listening = socket.create_server((host, 0))  # torch's own would listen on every address
        port = listening.getsockname()[1]
        self._store = self._meeting(host, port, is_master=True, master_listen_fd=listening.detach())
        return port

    def join(self, host: str, port: int) -> None:
        """Join the group that the first rank invited to.

        A group on one machine talks over its loopback device alone.

        Raises:
            RuntimeError: The others did not come in time (torch's own error).
        """
        setting = self._setting
        if host == LOOPBACK:
            os.environ["GLOO_SOCKET_IFNAME"] = _loopback_device()
        store = self._store or self._meeting(host, port)
        dist.init_process_group(
            "nccl" if self._device.type == "cuda" else "gloo",
            store=store,
            rank=setting.rank,
            world_size=setting.spec.ranks,
            timeout=timedelta(seconds=setting.spec.timeout_s),
        )

    def load(self) -> RankReport:
        """Read this rank's part of the model; all ranks do it together.

        Raises:
            RequestError: The architecture cannot be divided so.
            IntegrityError: The version's bytes are not what was written, or it is no model.
        """
        setting = self._setting
        version = setting.location.open().open(setting.version)
        card = version.manifest.model
        if card is None:
            raise IntegrityError(f"{setting.version} is no model version.")
        reading = Reading(version)
        if setting.spec.kind == "pipeline":
            self._module = pipeline_part(reading, card.architecture, setting.rank, setting.spec, self._device)
        else:
            mesh = init_device_mesh(self._device.type, (setting.spec.ranks,))
            self._module = tensor_part(reading, card.architecture, mesh, setting.spec)
        whole = sum(piece.length for entry in version.manifest.tensors for piece in entry.pieces)
        return RankReport(read_bytes=reading.bytes, model_bytes=whole, pid=os.getpid())

    def compute(self, inputs: tuple[Array, ...]) -> Array | None:
        """Compute this rank's share of a batch; return the module's outputs if this is the rank that has them.

        Args:
            inputs: What the module takes, each [rows, ...], with at least one row.
        """
        tensors = [torch.from_numpy(np.array(value)).to(self._device) for value in inputs]
        with torch.no_grad():  # not inference mode, in which collectives of DTensors do not work
            found = self._pass_on(tensors) if self._setting.spec.kind == "pipeline" else self._together(tensors)
        return None if found is None else found.float().cpu().numpy()

    def stay(self) -> None:
        """Never return: its end tells that of this process."""
        threading.Event().wait()

    def _meeting(self, host: str, port: int, **more: Any) -> TCPStore:
        limit = timedelta(seconds=max(JOIN_S, self._setting.spec.timeout_s))
        return TCPStore(host, port, self._setting.spec.ranks, wait_for_workers=False, timeout=limit, **more)

    def _together(self, tensors: list[torch.Tensor]) -> torch.Tensor | None:
        found = self._module(*tensors)
        if isinstance(found, AsyncCollectiveTensor):  # every rank ends the exchange, also those that do not answer
            found = found.wait()
        return found if self._setting.rank == 0 else None

    def _pass_on(self, tensors: list[torch.Tensor]) -> torch.Tensor | None:
        rank, ranks = self._setting.rank, self._setting.spec.ranks
        pieces = min(ranks, len(tensors[0]))
        answers: list[torch.Tensor] = []
        sent: list[Any] = []
        for piece in zip(*(tensor.tensor_split(pieces) for tensor in tensors), strict=True):
            values = piece[0] if rank == 0 else _received(rank - 1, self._device)
            found = self._module(values, *piece[1:])
            if rank == ranks - 1:
                answers.append(found)
            else:
                sent += _send(found, rank + 1)
        for work, _ in sent:
            work.wait()
        return torch.cat(answers) if answers else None


def _send(values: torch.Tensor, to: int) -> list[tuple[Any, torch.Tensor]]:
    """Begin to send a tensor after a line that says its type and shape; what is sent is kept until it has gone."""
    values = values.contiguous()
    shape = [*values.shape, *[0] * (_MOST_DIMENSIONS - values.ndim)]
    head = torch.tensor([_DTYPES.index(values.dtype), values.ndim, *shape], device=values.device)
    return [(dist.isend(one, to), one) for one in (head, values)]


def _received(source: int, device: torch.device) -> torch.Tensor:
    head = torch.empty(2 + _MOST_DIMENSIONS, dtype=torch.int64, device=device)
    dist.recv(head, source)
    dtype, dimensions, *shape = head.tolist()
    values = torch.empty(shape[:dimensions], dtype=_DTYPES[dtype], device=device)
    dist.recv(values, source)
    return values


def _loopback_device() -> str:
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name.startswith("lo")), "lo")
