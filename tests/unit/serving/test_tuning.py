"""Tuned models answer as untuned ones, for any number of rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lightmill.errors import RequestError
from lightmill.models.architectures import seeded
from lightmill.records.signature import Architecture
from lightmill.records.specs import EndpointSpec, parse_spec
from lightmill.records.tuned import TuningSpec
from lightmill.serving.loading import load_model, warm_up
from lightmill.serving.tuning import tuned
from tests.unit.registry.world import World
from tests.unit.serving.parallel.gang import ARCHITECTURES, location_of, published

PICTURES = Architecture(
    name="convnet", arguments={"inputs": 3 * 8 * 8, "classes": 3, "image": [3, 8, 8], "channels": [8, 8]}
)


def test_channels_last_changes_the_order_in_memory_and_not_the_answers() -> None:
    plain = seeded(2, PICTURES).eval()
    rows = torch.randn(5, 3 * 8 * 8)
    with torch.no_grad():
        wanted = plain(rows)
        found = tuned(seeded(2, PICTURES).eval(), TuningSpec(channels_last=True))
        weight = next(found.parameters())
        assert weight.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found(rows), wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(RequestError, match=r"tuning\.channels_last is true, and this model has no convolution"):
        tuned(seeded(2, ARCHITECTURES["mlp"]), TuningSpec(channels_last=True))


@pytest.mark.slow
def test_a_compiled_model_is_warm_for_any_number_of_rows(tmp_path: Path) -> None:
    world = World(tmp_path)
    version, module = published(world.registry, ARCHITECTURES["mlp"])
    model = load_model(location_of(world), version, tuning=TuningSpec(compile=True))
    warm_up(model, 16)
    made = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert made > 0
    for rows in (1, 2, 7, 16, 33):
        features = np.random.default_rng(rows).normal(size=(rows, 8)).astype(np.float32)
        with torch.no_grad():
            wanted = module(torch.from_numpy(features)).softmax(dim=1).numpy()
        found = model.predict(features)  # pyright: ignore[reportArgumentType]
        np.testing.assert_allclose(found.arrays()["probabilities"], wanted, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == made


def test_threads_between_operations_are_set_once_a_process() -> None:
    script = (
        "import torch; from lightmill.records.tuned import TuningSpec;"
        "from lightmill.serving.tuning import set_threads;"
        "set_threads(1, TuningSpec(interop_threads=3)); set_threads(1, TuningSpec(interop_threads=2));"
        "print(torch.get_num_threads(), torch.get_num_interop_threads())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.split() == ["1", "3"]


@pytest.mark.parametrize(
    "more",
    [
        {"parallel": {"kind": "tensor", "ranks": 2}, "tuning": {"interop_threads": 2}},
        {"models": {"names": ["a"], "memory_mb": 1}, "tuning": {"compile": True}},
    ],
)
def test_what_would_not_be_tuned_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="do not go together"):
        parse_spec(EndpointSpec, {"name": "e", "model": "m", **more}, "it")
