"""The tabular network, the residual network, the encoder, models of transformers and a user's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lightmill.errors import RequestError
from lightmill.models.architectures import build_module, seeded
from lightmill.models.categories import category_places
from lightmill.models.encoder import Encoder
from lightmill.records.fitted import (
    FittedImpute,
    FittedOneHot,
    FittedOrdinal,
    FittedPreparation,
    FittedStandardize,
    InputColumn,
    TabularPreparation,
)
from lightmill.records.preparation import Features
from lightmill.records.signature import Architecture

ENCODER = {"vocabulary": 11, "context": 8, "classes": 3, "width": 8, "layers": 2, "heads": 2}


def built(name: str, **arguments: object) -> nn.Module:
    return seeded(1, Architecture.model_validate({"name": name, "arguments": arguments})).eval()


def test_categories_are_looked_up_and_codes_beyond_them_are_the_last() -> None:
    module = built("tabular", inputs=3, classes=2, hidden=[4], category_places=[1], category_sizes=[5])
    rows = torch.tensor([[0.5, 4.0, -1.0], [0.5, 9.0, -1.0], [0.5, 3.0, -1.0]])
    found = module(rows)
    torch.testing.assert_close(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    embedded = module.embeddings[0].weight[4]  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue, reportOptionalSubscript]
    expected = module.layers(torch.cat([rows[:1, [0, 2]], embedded[None]], dim=1))  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(found[:1], expected)


def test_the_preparation_says_which_features_are_categories() -> None:
    steps = (
        FittedImpute(columns=("age",), values=(3.0,), indicator=True),
        FittedOneHot(columns=("kind",), categories=(("a", "b"),), unknown="other"),
        FittedOrdinal(
            columns=("size", "shade", "level"), categories=(("s", "m"), ("x", "y", "z"), (1, 2)), unknown="error"
        ),
        FittedStandardize(columns=("age", "level"), mean=(0.0, 0.0), scale=(1.0, 1.0)),
        Features(columns=("age", "kind", "size", "age_missing", "shade", "level")),
    )
    columns = tuple(InputColumn(name=name, dtype="string") for name in ("age", "kind", "size", "shade", "level"))
    made = TabularPreparation(columns=columns, fitted=FittedPreparation(steps=steps), width=8)
    assert category_places(made) == ([4, 6], [2, 3])  # `level` was standardized afterwards, and is a number
    with pytest.raises(RequestError, match="the steps make 8 features"[4:]):
        category_places(made.model_copy(update={"width": 9}))


def test_a_residual_network_takes_pictures_as_they_are_stored_and_batches_without_rows() -> None:
    picture = torch.randn(2, 5, 6, 3)
    last = built("resnet", inputs=90, classes=4, image=[5, 6, 3], layout="hwc", channels=[4, 8], depth=1)
    first = built("resnet", inputs=90, classes=4, image=[3, 5, 6], channels=[4, 8], depth=1)
    torch.testing.assert_close(last(picture.flatten(1)), first(picture.permute(0, 3, 1, 2).flatten(1)))
    batch = built("resnet", inputs=90, classes=4, image=[3, 5, 6], channels=[4, 8], depth=1, norm="batch").train()
    before = {name: value.clone() for name, value in batch.named_buffers()}
    batch(torch.zeros(0, 90)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in batch.named_buffers())
    assert all(p.grad is not None and not p.grad.any() for p in batch.parameters())


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_padding_changes_nothing_for_an_encoder(pooling: str) -> None:
    module = built("encoder", **ENCODER, pooling=pooling)
    assert isinstance(module, Encoder)
    tokens = torch.tensor([[3, 4, 5, 6]])
    alone = module(tokens)
    padded = torch.tensor([[3, 4, 5, 6, 9, 1]])
    there = torch.tensor([[1, 1, 1, 1, 0, 0]])
    torch.testing.assert_close(module(padded, there), alone)
    assert not torch.allclose(module(padded), alone)
    assert module(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4)).isfinite().all()
    assert module(torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, 4)).shape == (0, 3)


LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def test_a_causal_model_of_transformers_keeps_packed_documents_apart() -> None:
    pytest.importorskip("transformers", reason="the extra hf is not installed")
    module = built("transformers", vocabulary=11, context=8, kind="causal_lm", config=LLAMA)
    both = module(torch.tensor([[1, 2, 3, 4, 5, 0]]), torch.tensor([[1, 1, 1, 2, 2, 0]]))
    torch.testing.assert_close(both[:, :3], module(torch.tensor([[1, 2, 3]])), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[:, 3:5], module(torch.tensor([[4, 5]])), rtol=1e-4, atol=1e-5)
    empty = module(torch.zeros(0, 6, dtype=torch.int64), torch.zeros(0, 6))
    empty.sum().backward()
    assert empty.shape == (0, 6, 11)
    with pytest.raises(RequestError, match=r"config.vocab_size is 5, but the dataset needs 11"):
        built("transformers", vocabulary=11, context=8, kind="causal_lm", config={**LLAMA, "vocab_size": 5})
    with pytest.raises(RequestError, match="model_type"):
        built("transformers", vocabulary=11, context=8, kind="causal_lm", config={})


def test_a_classifier_of_transformers_leaves_padding_out() -> None:
    pytest.importorskip("transformers", reason="the extra hf is not installed")
    config = {**LLAMA, "model_type": "bert"}
    module = built("transformers", vocabulary=11, context=8, classes=3, kind="sequence_classification", config=config)
    found = module(torch.tensor([[1, 2, 3, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]]))
    torch.testing.assert_close(found, module(torch.tensor([[1, 2, 3]])), rtol=1e-4, atol=1e-5)
    assert found.shape == (1, 3)


def test_a_user_s_own_architecture_is_built_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n"
        "def build(*, inputs, classes, width=4):\n"
        "    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))\n"
        "def wrong(**_):\n"
        "    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = Architecture(entrypoint="own_nets:build", arguments={"inputs": 3, "classes": 2, "width": 5})
    assert own.name == "custom"
    assert build_module(own, allow_python=True)(torch.zeros(1, 3)).shape == (1, 2)
    with pytest.raises(RequestError, match=r"'own_nets:build', and functions are not allowed here.*LIGHTMILL_ALLOW"):
        build_module(own)
    with pytest.raises(RequestError, match=r"LIGHTMILL_SERVE_PYTHON_STEPS=true"):
        build_module(own, allowed_by="LIGHTMILL_SERVE_PYTHON_STEPS")
    with pytest.raises(RequestError, match="no function 'none'"):
        build_module(own.model_copy(update={"entrypoint": "own_nets:none"}), allow_python=True)
    with pytest.raises(RequestError, match="returned a int"):
        build_module(own.model_copy(update={"entrypoint": "own_nets:wrong"}), allow_python=True)
    sys.modules.pop("own_nets", None)


@pytest.mark.parametrize("given", [{}, {"arguments": {"hidden": [1]}}, {"entrypoint": "no function"}])
def test_an_architecture_has_a_name_or_an_entrypoint(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"name of an architecture|package\.module:function"):
        Architecture.model_validate(given)
