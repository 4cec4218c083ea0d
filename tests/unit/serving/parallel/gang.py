"""Ranks of a divided replica in processes over gloo, without Ray, and the models that they are tried on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.distributed.device_mesh import init_device_mesh

from lightmill.models.answers import classifying, signature_of_tokens, token_inputs
from lightmill.models.architectures import seeded
from lightmill.records.assets import ModelCard
from lightmill.records.parallel import ParallelSpec
from lightmill.records.references import VersionId
from lightmill.records.signature import Architecture, Preprocessing, TensorSpec
from lightmill.registry import Registry, RegistryLocation
from lightmill.serving.parallel.parts import Reading, pipeline_part, tensor_part
from lightmill.serving.parallel.rank import LOOPBACK, Rank, RankReport, RankSetting
from lightmill.storage import LocalStore
from tests.counting import CountingStore
from tests.unit.registry.world import World, publish

multiprocessing.set_forkserver_preload(["tests.unit.serving.parallel.gang"])
TOKENS = {"vocabulary": 24, "context": 16, "width": 16, "layers": 4, "heads": 4}
ARCHITECTURES = {
    "tied": Architecture(name="decoder", arguments=dict(TOKENS)),
    "untied": Architecture(name="decoder", arguments=TOKENS | {"tied": False, "vocabulary": 23}),
    "encoder": Architecture(name="encoder", arguments=TOKENS | {"classes": 3}),
    "mlp": Architecture(name="mlp", arguments={"inputs": 8, "hidden": [16, 8, 12], "classes": 3}),
    "tabular": Architecture(
        name="tabular",
        arguments={
            "inputs": 8,
            "classes": 3,
            "hidden": [16, 8, 12],
            "category_places": [0, 5],
            "category_sizes": [3, 4],
        },
    ),
}


def published(
    registry: Registry, architecture: Architecture, name: str = "m", seed: int = 3
) -> tuple[VersionId, torch.nn.Module]:
    """Publish a model with weights by chance; return its version, and the module with them."""
    module = seeded(seed, architecture).eval()
    signature = (
        signature_of_tokens("tokens", int(architecture.arguments["vocabulary"]))  # type: ignore[arg-type]
        if architecture.name == "decoder"
        else classifying(
            token_inputs("tokens")
            if architecture.name == "encoder"
            else (TensorSpec(name="x", datatype="FP32", shape=(-1, 8)),),
            3,
        )
    )
    card = ModelCard(
        architecture=architecture,
        preprocessing=Preprocessing(),
        signature=signature,
        classes=() if architecture.name == "decoder" else ("a", "b", "c"),
        metrics={},
    )
    return publish(registry, name, module.state_dict(), card).id, module


def batches_of(architecture: Architecture) -> list[tuple[np.ndarray, ...]]:
    """Batches of several sizes, one with a single row."""
    chance = np.random.default_rng(5)
    if architecture.name in ("mlp", "tabular"):
        return [(chance.integers(0, 3, (rows, 8)).astype(np.float32),) for rows in (5, 1, 8)]
    rows = [chance.integers(0, 23, (count, length)) for count, length in ((5, 7), (1, 16), (8, 3))]
    if architecture.name == "decoder":
        return [(one,) for one in rows]
    return [(one, (np.arange(one.shape[1]) < chance.integers(1, 4, (len(one), 1))).astype(np.int64)) for one in rows]


def location_of(world: World) -> RegistryLocation:
    return RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")


def compute_together(
    world: World, version: VersionId, spec: ParallelSpec, batches: list[Any], folder: Path
) -> tuple[list[np.ndarray], list[RankReport]]:
    """Return the answers of a group to some batches, and what its ranks have read."""
    setting = {"spec": spec, "version": version, "location": location_of(world)}
    multiprocessing.start_processes(
        _rank, args=(setting, batches, str(folder)), nprocs=spec.ranks, start_method="forkserver"
    )
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(spec.ranks)]
    answers = [next(one for one in each if one is not None) for each in zip(*(one[0] for one in found), strict=True)]
    return answers, [one[1] for one in found]


def _rank(number: int, setting: dict[str, Any], batches: list[Any], folder: str) -> None:
    one = Rank(RankSetting(rank=number, **setting))
    meeting = Path(folder, "port")
    if number == 0:
        port = one.invite(LOOPBACK)
        meeting.with_suffix(".new").write_text(str(port))
        meeting.with_suffix(".new").replace(meeting)
    while not meeting.exists():
        os.sched_yield()
    one.join(LOOPBACK, int(meeting.read_text()))
    report = one.load()
    torch.save(([one.compute(batch) for batch in batches], report), Path(folder, f"{number}.pt"))
    dist.barrier()
    dist.destroy_process_group()


def read_together(world: World, version: VersionId, spec: ParallelSpec, folder: Path) -> list[int]:
    """Return how many sealed bytes each rank reads of the store's blobs for its part."""
    multiprocessing.start_processes(
        _reader, args=(location_of(world), version, spec, str(folder)), nprocs=spec.ranks, start_method="forkserver"
    )
    return [int(Path(folder, f"{rank}.bytes").read_text()) for rank in range(spec.ranks)]


def _reader(number: int, location: RegistryLocation, version: VersionId, spec: ParallelSpec, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder, "meeting")), spec.ranks)
    dist.init_process_group("gloo", store=store, rank=number, world_size=spec.ranks)
    opened = location.open()
    counting = CountingStore(LocalStore(location.store_url))
    registry = type(opened)(counting, opened.keyring, "default", opened.store_id, None)
    found = registry.open(version)
    card = found.manifest.model
    assert card is not None
    counting.forget()
    reading = Reading(found)
    if spec.kind == "pipeline":
        pipeline_part(reading, card.architecture, number, spec, torch.device("cpu"))
    else:
        tensor_part(reading, card.architecture, init_device_mesh("cpu", (spec.ranks,)), spec)
    Path(folder, f"{number}.bytes").write_text(str(counting.counts.bytes))
    dist.destroy_process_group()
