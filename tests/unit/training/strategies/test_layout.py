"""What makes no mesh, or no split of a model, is refused with field, value and remedy."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from lightmill.errors import RequestError
from lightmill.models.architectures import build_module
from lightmill.models.plans.port import cut_points
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.training.strategies import STRATEGIES
from lightmill.training.strategies.layout import Layout

DECODER = {"vocabulary": 32, "context": 16, "width": 24, "layers": 3, "heads": 6, "kv_heads": 3, "feed_forward": 48}
MODELS = {
    "decoder": Architecture(name="decoder", arguments=dict(DECODER)),
    "mlp": Architecture(name="mlp", arguments={"inputs": 4, "classes": 3, "hidden": [8, 6]}),
    "logistic": Architecture(name="logistic", arguments={"inputs": 4, "classes": 3}),
}


def check(model: str, workers: int | str, **more: Any) -> str:
    """Check a specification as a run does; return the name of the strategy that took it."""
    objective = "causal_lm" if model == "decoder" else "cross_entropy"
    spec = TrainSpec.model_validate(
        {"model": "m", "dataset": "d", "architecture": MODELS[model], "objective": objective, "workers": workers}
        | {"batch_size": 24}
        | more
    )
    with torch.device("meta"):
        module = build_module(MODELS[model])
    kind = STRATEGIES[spec.strategy.name]
    kind.check(spec, module, spec.worker_range.max)
    return kind.name


@pytest.mark.parametrize(
    ("model", "workers", "more", "says"),
    [
        ("decoder", 4, {"strategy": {"name": "tensor", "size": 3}}, "strategy.size is 3, .* divide 4 workers"),
        ("decoder", 6, {"strategy": {"name": "pipeline", "stages": 4}}, "strategy.stages is 4, .* divide 6 workers"),
        ("decoder", 6, {"strategy": {"name": "hybrid", "data": 2, "tensor": 2}}, "data 2 x pipeline 1 x tensor 2 is 4"),
        ("decoder", 6, {"strategy": {"name": "hybrid", "tensor": 4}}, "pipeline x tensor is 4, .* 6 workers"),
        ("decoder", 4, {"strategy": "tensor"}, "arguments.heads is 6, .* by 4 .* use a multiple of 4"),
        ("decoder", 2, {"strategy": "tensor"}, "arguments.kv_heads is 3, .* by 2"),
        ("mlp", 4, {"strategy": "tensor"}, r"arguments.hidden\[1\] is 6, .* by 4"),
        ("mlp", 2, {"strategy": {"name": "tensor", "sequence": True}}, "strategy.sequence is true"),
        ("logistic", 2, {"strategy": "tensor"}, "'logistic' has no plan for it; use 'ddp' or 'fsdp'"),
        ("decoder", 4, {"strategy": "pipeline"}, "has 4 stages, but .* 'decoder' has 3 layers; use at most 3"),
        ("mlp", 4, {"strategy": {"name": "pipeline", "microbatches": 6}}, "has 4 stages, but .* has 3 layers"),
        ("decoder", 3, {"strategy": {"name": "pipeline", "microbatches": 5}}, "microbatches is 5, .* the 24 rows"),
        ("decoder", 3, {"strategy": {"name": "pipeline", "microbatches": 2}}, "microbatches is 2, .* '1f1b' needs"),
        ("decoder", 3, {"strategy": "pipeline", "accumulate": 7}, "microbatches is 4, .* the 3 rows"),
        (
            "decoder",
            6,
            {"strategy": {"name": "hybrid", "pipeline": 3, "shard": True}},
            "shard is true .*arguments.tied: false",
        ),
        ("mlp", 2, {"strategy": "context"}, "'context', .* 'mlp' with objective 'cross_entropy'"),
        ("decoder", 3, {"strategy": "context"}, "rows have 16 tokens, .* 3 context .* divisor of 16"),
        ("decoder", 2, {"strategy": "fsdp", "precision": "fp16"}, "precision is 'fp16'.* use 'bf16'"),
        ("decoder", 2, {"strategy": "fsdp", "compile": True}, "compile is true"),
        ("decoder", 2, {"strategy": "fsdp", "optimizer": "muon"}, "optimizer 'muon' needs whole matrices"),
        ("decoder", "1..3", {"strategy": "tensor"}, r"workers is 1\.\.3, .* fixed number"),
    ],
)
def test_is_refused(model: str, workers: int | str, more: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        check(model, workers, **more)


@pytest.mark.parametrize(
    ("model", "workers", "strategy"),
    [
        ("decoder", 3, {"name": "tensor"}),
        ("decoder", 6, {"name": "tensor", "size": 3}),
        ("decoder", 6, {"name": "hybrid", "tensor": 3, "shard": True}),
        ("decoder", 3, {"name": "pipeline"}),
        ("decoder", 2, {"name": "context"}),
        ("decoder", "2..8", {"name": "fsdp"}),
        ("logistic", 2, {"name": "fsdp"}),
        ("mlp", 2, {"name": "tensor"}),
        ("mlp", 3, {"name": "pipeline"}),
    ],
)
def test_is_taken(model: str, workers: int | str, strategy: dict[str, Any]) -> None:
    assert check(model, workers, strategy=strategy) == strategy["name"]


def test_every_worker_has_one_place() -> None:
    for data, pipeline, context, tensor in product((1, 2, 3), repeat=4):
        layout = Layout(data=data, pipeline=pipeline, context=context, tensor=tensor)
        places = [layout.place(rank) for rank in range(data * pipeline * context * tensor)]
        assert len(set(places)) == len(places)
        assert [layout.rank(place) for place in places] == list(range(len(places)))


def test_stages_have_all_layers_in_order() -> None:
    for layers in range(1, 9):
        for stages in range(1, layers + 1):
            cuts = cut_points(layers, stages)
            assert [layer for cut in cuts for layer in cut] == list(range(layers))
            assert max(map(len, cuts)) - min(map(len, cuts)) <= 1
