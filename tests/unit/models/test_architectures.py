from __future__ import annotations

from typing import Any

import pytest
import torch

from lightmill.errors import RequestError
from lightmill.models.architectures import ARCHITECTURES, OF_TOKENS, build_module, parameter_count, seeded
from lightmill.records.signature import Architecture

ARGUMENTS: dict[str, dict[str, Any]] = {
    "logistic": {},
    "mlp": {"hidden": [8, 4], "dropout": 0.1},
    "decoder": {"vocabulary": 7, "context": 16, "width": 8, "layers": 2, "heads": 2},
    "convnet": {"image": [1, 4, 4], "channels": [2, 3], "hidden": 5},
    "resnet": {"image": [1, 4, 4], "channels": [4, 8], "depth": 1},
    "tabular": {"hidden": [4], "category_places": [2, 0], "category_sizes": [3, 5]},
    "encoder": {"vocabulary": 7, "context": 16, "classes": 3, "width": 8, "layers": 2, "heads": 2},
    "transformers": {
        "vocabulary": 7,
        "context": 16,
        "kind": "causal_lm",
        "config": {
            "model_type": "llama",
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
    },
}


def test_every_architecture_is_tested_here() -> None:
    assert set(ARCHITECTURES) == set(ARGUMENTS)


@pytest.mark.parametrize("name", sorted(set(ARGUMENTS) - OF_TOKENS))
@pytest.mark.parametrize("rows", [1, 7])
def test_an_architecture_turns_rows_into_logits(name: str, rows: int) -> None:
    given = Architecture(name=name, arguments=ARGUMENTS[name])
    module = build_module(given.with_sizes(inputs=16, classes=3))
    logits = module(torch.randn(rows, 16))
    assert logits.shape == (rows, 3)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_parameters_are_counted() -> None:
    assert parameter_count(build_module(Architecture(name="logistic", arguments={"inputs": 4, "classes": 3}))) == 15


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_seed_alone_decides_the_weights(name: str) -> None:
    if name == "transformers":
        pytest.importorskip("transformers", reason="the extra hf is not installed")
    sizes = {} if name in OF_TOKENS else {"inputs": 16, "classes": 3}
    architecture = Architecture(name=name, arguments=ARGUMENTS[name]).with_sizes(**sizes)
    state = torch.random.get_rng_state()
    first, again, other = (seeded(seed, architecture).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("transformer", {}, ("'transformer'", "logistic, mlp")),
        ("mlp", {"inputs": 4, "classes": 3}, ("'mlp'", "hidden")),
        ("mlp", {"inputs": 4, "classes": 3, "hidden": [4], "width": 2}, ("'mlp'", "width")),
        ("mlp", {"inputs": 4, "classes": 3, "hidden": 4}, ("'mlp'", "4")),
        ("mlp", {"inputs": 4, "classes": 3, "hidden": [4], "dropout": 1.5}, ("'mlp'", "1.5")),
        ("mlp", {"inputs": 4, "classes": 3, "hidden": [-4]}, ("'mlp'", "-4")),
        ("logistic", {"inputs": "four", "classes": 3}, ("'logistic'", "four")),
        ("decoder", {"vocabulary": 7, "context": 4, "width": 6, "heads": 2}, ("width 6", "multiple of 2 x heads, 4")),
        ("decoder", {"vocabulary": 7, "context": 4, "heads": 4, "kv_heads": 3}, ("heads 4", "kv_heads 3")),
        ("decoder", {"vocabulary": 0, "context": 4}, ("vocabulary is 0",)),
        ("resnet", {"inputs": 16, "classes": 3, "image": [1, 4, 5]}, ("image [1, 4, 5]", "16 inputs")),
        ("resnet", {"inputs": 16, "classes": 3, "image": [1, 4, 4], "norm": "layer"}, ("'layer'", "group or batch")),
        ("tabular", {"inputs": 3, "classes": 2, "hidden": [2], "category_places": [1]}, ("one size for each place",)),
        (
            "tabular",
            {"inputs": 3, "classes": 2, "hidden": [2], "category_places": [3], "category_sizes": [2]},
            ("[3] of 3 inputs",),
        ),
        ("encoder", {"vocabulary": 7, "context": 4, "classes": 2, "pooling": "last"}, ("'last'", "mean or first")),
        ("transformers", {"vocabulary": 7, "context": 4, "kind": "masked", "config": {}}, ("'masked'", "causal_lm")),
    ],
)
def test_what_cannot_be_built_is_refused_with_name_and_arguments(
    name: str, arguments: dict[str, Any], named: tuple[str, ...]
) -> None:
    with pytest.raises(RequestError) as caught:
        build_module(Architecture(name=name, arguments=arguments))
    assert [part for part in named if part not in caught.value.message] == [], caught.value.message


def test_the_dataset_decides_the_sizes_and_a_contradiction_is_refused() -> None:
    found = Architecture(name="mlp", arguments={"hidden": [2], "classes": 3}).with_sizes(inputs=4, classes=3)
    assert found.arguments == {"hidden": [2], "inputs": 4, "classes": 3}
    with pytest.raises(RequestError, match=r"architecture\.arguments\.inputs is 5, but the dataset has 4"):
        Architecture(name="mlp", arguments={"inputs": 5}).with_sizes(inputs=4, classes=3)
