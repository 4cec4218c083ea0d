"""A run that begins with a registered version: what is taken over, frozen, drawn anew, adapted and merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightmill.errors import RequestError
from lightmill.models.architectures import build_module, seeded
from lightmill.records.assets import ModelCard, Provenance
from lightmill.records.references import VersionId
from lightmill.records.signature import Architecture, Preprocessing, Signature, TensorSpec
from lightmill.records.specs import TrainSpec
from lightmill.registry import OpenVersion
from lightmill.training.register import publish_model
from lightmill.training.starting import check_start, first_module, start_version, trained_module
from tests.unit.registry.world import World

MLP = Architecture(name="mlp", arguments={"inputs": 3, "classes": 2, "hidden": [4, 4]})
WIDER = Architecture(name="mlp", arguments={"inputs": 3, "classes": 5, "hidden": [4, 4]})
PLAIN = TensorSpec(name="x", datatype="FP32", shape=(-1, 3))


def spec(**start: Any) -> TrainSpec:
    given = {"model": "m", "dataset": "d", "architecture": MLP, "workers": 1, "start": {"model": "base@1", **start}}
    return TrainSpec.model_validate(given)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> OpenVersion:
    world = World(tmp_path_factory.mktemp("base"))
    card = ModelCard(
        architecture=MLP,
        preprocessing=Preprocessing(),
        signature=Signature(inputs=(PLAIN,), outputs=(PLAIN,)),
        classes=("a", "b"),
        metrics={},
    )
    id: VersionId = publish_model(world.registry, "base", seeded(9, MLP).state_dict(), card, Provenance()).id
    found = start_version(spec(), world.registry)
    assert found is not None and found.id == id
    return found


def meta(architecture: Architecture) -> nn.Module:
    with torch.device("meta"):
        return build_module(architecture)


def test_weights_are_taken_over_frozen_and_drawn_anew(base: OpenVersion) -> None:
    asked = spec(freeze=["0.*"], skip=["4.*"])
    check_start(asked, meta(WIDER), base)
    found, known, fresh = first_module(asked, WIDER, base), seeded(9, MLP).state_dict(), seeded(0, WIDER).state_dict()
    for name, value in found.state_dict().items():
        assert torch.equal(value, fresh[name] if name.startswith("4.") else known[name]), name
    frozen = {name for name, parameter in found.named_parameters() if not parameter.requires_grad}
    assert frozen == {"0.weight", "0.bias"}


@pytest.mark.parametrize(
    ("start", "architecture", "says"),
    [
        ({"freeze": ["blocks.*"]}, MLP, "start.freeze: 'blocks.*' matches nothing; there are 0.weight"),
        ({"skip": ["head.*"]}, MLP, "start.skip: 'head.*' matches nothing"),
        ({"freeze": ["*"]}, MLP, "leaves nothing to train"),
        ({"skip": ["*"]}, MLP, "leaves nothing of"),
        ({}, WIDER, "Tensor '4.weight' of start.model"),
        ({}, Architecture(name="logistic", arguments={"inputs": 3, "classes": 2}), "has no tensor 'weight'"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(
    base: OpenVersion, start: dict[str, Any], architecture: Architecture, says: str
) -> None:
    with pytest.raises(RequestError) as caught:
        check_start(spec(**start), meta(architecture), base)
    assert says in caught.value.message


def test_adapters_alone_are_trained_and_merged_under_the_plain_names(base: OpenVersion) -> None:
    pytest.importorskip("peft", reason="the extra lora is not installed")
    asked = spec(lora={"rank": 2, "alpha": 4.0, "targets": ["0", "2"]})
    check_start(asked, meta(MLP), base)
    module, rows = first_module(asked, MLP, base), torch.randn(5, 3)
    torch.testing.assert_close(module(rows), first_module(spec(), MLP, base)(rows))  # adapters begin as nothing
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert len(trained) == 4 and all("lora_" in name for name in trained)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        module(rows).square().sum().backward()
        optimizer.step()
    plain = trained_module(asked, MLP, module.state_dict())
    assert plain.state_dict().keys() == build_module(MLP).state_dict().keys()
    torch.testing.assert_close(plain(rows), module(rows))
    assert not torch.allclose(plain(rows), first_module(spec(), MLP, base)(rows))
    assert torch.equal(plain.state_dict()["4.weight"], seeded(9, MLP).state_dict()["4.weight"])


def test_adapters_begin_alike_in_every_worker_and_new_parts_are_trained_too(base: OpenVersion) -> None:
    pytest.importorskip("peft", reason="the extra lora is not installed")
    asked = spec(lora={"targets": ["0"]}, skip=["4.*"])
    torch.manual_seed(1)
    one = first_module(asked, WIDER, base)
    torch.manual_seed(2)
    two = first_module(asked, WIDER, base)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert {name for name, p in one.named_parameters() if p.requires_grad} >= {"4.weight", "4.bias"}


@pytest.mark.parametrize(
    ("lora", "strategy", "says"),
    [
        ({"targets": ["none"]}, "ddp", "start.lora.targets: 'none' matches nothing"),
        ({}, "pipeline", "splits the layers"),
    ],
)
def test_adapters_that_cannot_be_had_are_refused(
    base: OpenVersion, lora: dict[str, Any], strategy: str, says: str
) -> None:
    pytest.importorskip("peft", reason="the extra lora is not installed")
    asked = spec(lora=lora).model_copy(
        update={
            "strategy": TrainSpec.model_validate(
                {"model": "m", "dataset": "d", "architecture": MLP, "workers": 1, "strategy": strategy}
            ).strategy
        }
    )
    with pytest.raises(RequestError, match=says):
        check_start(asked, meta(MLP), base)


def test_tensors_of_an_imported_model_of_transformers_have_no_prefix(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra hf is not installed")
    config = {
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "tie_word_embeddings": True,
    }
    made = Architecture(
        name="transformers", arguments={"vocabulary": 7, "context": 4, "kind": "causal_lm", "config": config}
    )
    world = World(tmp_path)
    state = {
        name.removeprefix("inner."): v for name, v in seeded(5, made).state_dict().items() if "lm_head" not in name
    }
    card = ModelCard(
        architecture=made,
        preprocessing=Preprocessing(),
        signature=Signature(inputs=(PLAIN,), outputs=(PLAIN,)),
        classes=(),
        metrics={},
    )
    publish_model(world.registry, "base", state, card, Provenance())
    version = start_version(spec(), world.registry)
    check_start(spec(), meta(made), version)
    found = first_module(spec(), made, version)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in seeded(5, made).state_dict().items())
