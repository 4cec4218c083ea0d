"""A model divided over processes answers as the whole one, and each reads its part alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightmill.records.parallel import ParallelSpec
from lightmill.records.signature import Architecture
from lightmill.serving.parallel.checking import outline
from tests.unit.registry.world import World
from tests.unit.serving.parallel.gang import (
    ARCHITECTURES,
    batches_of,
    compute_together,
    published,
    read_together,
)

TOLERANCE = 1e-5
"""Of float32 outputs: sums of parts are added up in another order."""
LARGE = Architecture(
    name="decoder",
    arguments={"vocabulary": 4096, "context": 64, "width": 1024, "layers": 2, "heads": 8, "feed_forward": 2048},
)
SLACK = 0.2
"""What a rank may read of the store beyond its share: the rest of sealed segments of 1 MiB, and small gaps."""


def spec_of(kind: Any, ranks: int = 2) -> ParallelSpec:
    return ParallelSpec(kind=kind, ranks=ranks, timeout_s=60)


@pytest.mark.parametrize(
    ("name", "kind", "ranks"),
    [
        ("tied", "pipeline", 2),
        ("tied", "tensor", 2),
        ("encoder", "tensor", 2),
        ("tabular", "pipeline", 2),
        *(
            pytest.param(name, kind, ranks, marks=pytest.mark.slow)
            for name in ARCHITECTURES
            for kind in ("pipeline", "tensor")
            for ranks in (2, 4)
        ),
    ],
)
def test_ranks_answer_as_the_whole_model(name: str, kind: str, ranks: int, tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    version, module = published(world.registry, ARCHITECTURES[name])
    batches = batches_of(ARCHITECTURES[name])
    answers, reports = compute_together(world, version, spec_of(kind, ranks), batches, tmp_path)
    for batch, answer in zip(batches, answers, strict=True):
        with torch.no_grad():
            wanted = module(*map(torch.from_numpy, batch)).numpy()
        np.testing.assert_allclose(answer, wanted, atol=TOLERANCE, rtol=TOLERANCE)
    assert len({report.pid for report in reports}) == ranks


@pytest.mark.parametrize("kind", ["pipeline", "tensor"])
def test_a_rank_reads_its_part_of_the_sealed_weights_and_no_more(kind: str, tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    version, module = published(world.registry, LARGE)
    whole = sum(value.nbytes for value in module.state_dict().values())
    embedding = module.state_dict()["embedding.weight"].nbytes
    shares = [whole / 2, whole / 2]
    if kind == "pipeline":  # both ends have the embedding, and each half of the layers
        shares = [(whole - embedding) / 2 + embedding] * 2
    _, reports = compute_together(world, version, spec_of(kind), [], tmp_path)
    (tmp_path / "again").mkdir()
    sealed = read_together(world, version, spec_of(kind), tmp_path / "again")
    for report, share, stored in zip(reports, shares, sealed, strict=True):
        assert report.model_bytes == whole
        assert report.read_bytes == pytest.approx(share, rel=0.001)
        assert share <= stored <= share + SLACK * whole


def test_an_outline_takes_no_memory_for_weights_and_keeps_what_is_computed() -> None:
    for architecture in ARCHITECTURES.values():
        module = outline(architecture)
        assert all(parameter.is_meta for parameter in module.parameters())
        assert not any(buffer.is_meta for buffer in module.buffers())
