"""Two processes with unlike shares of each batch, over gloo: they must step as one process with whole batches."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from lightmill.models.architectures import seeded
from lightmill.training.loop import train_epoch
from lightmill.training.objectives import Batch, CausalLanguage, CrossEntropy, Objective
from tests.unit.training.test_loop import cross_entropy
from tests.unit.training.test_objectives import DECODER, documents_of, packed, texts

CPU = torch.device("cpu")
SHARES = {
    0: (5, 1, 0, 4),
    1: (2, 3, 4, 4),
}  # the rows of each worker in each step; one step finds worker 0 without rows


def case(name: str) -> tuple[Objective, nn.Module, Batch]:
    """The same objective, module and rows in every process."""
    if name == "causal_lm":
        language = CausalLanguage(texts(), DECODER)
        rows = language.tensors(packed(documents_of(5, rows=60)))
        return language, seeded(2, language.architecture), tuple(tensor[:23] for tensor in rows)
    labelled: CrossEntropy = cross_entropy()
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(23, 3, generator=generator)
    return labelled, seeded(2, labelled.architecture), (features, (features[:, 0] > 0).long())


def parts(rows: Batch, rank: int | None) -> list[Batch]:
    """The batches of one worker, or of all workers together."""
    found, start = [], 0
    for step in range(len(SHARES[0])):
        first, second = SHARES[0][step], SHARES[1][step]
        begin, end = {None: (0, first + second), 0: (0, first), 1: (first, first + second)}[rank]
        found.append(tuple(tensor[start + begin : start + end] for tensor in rows))
        start += first + second
    return found


def work(rank: int, name: str, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    objective, module, rows = case(name)
    parallel = DistributedDataParallel(module)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.5)
    metrics = train_epoch(parallel, optimizer, iter(parts(rows, rank)), objective, CPU, weigh=True)
    if rank == 0:
        torch.save({"state": module.state_dict(), "loss": metrics["loss"]}, Path(folder, "found.pt"))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cross_entropy", "causal_lm"])
def test_workers_with_unlike_shares_step_as_one_with_all(name: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(work, args=(name, port, str(tmp_path)), nprocs=2)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    objective, module, rows = case(name)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    alone = train_epoch(module, optimizer, iter(parts(rows, None)), objective, CPU)
    assert found["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    for key, value in module.state_dict().items():
        torch.testing.assert_close(found["state"][key], value, rtol=1e-4, atol=1e-5)
