"""Small models as they come from outside: safetensors files, Hugging Face folders, pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from lightmill.records.assets import ModelCard, VersionSummary
from lightmill.records.references import VersionId
from lightmill.registry import Registry
from lightmill.registry.tensors import load_tensors

CONFIG: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
}


def state(start: float = 0.0) -> dict[str, torch.Tensor]:
    return {
        "encoder.weight": torch.arange(24.0).reshape(4, 6) + start,
        "encoder.bias": torch.arange(4.0) - start,
        "half": torch.arange(6).to(torch.bfloat16),
        "ids": torch.arange(5),
        "nothing": torch.empty((0, 3)),
    }


def save(path: Path, tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> Path:
    safetensors.torch.save_file(tensors or state(), path, metadata=metadata or {"format": "pt"})
    return path


def folder_of(place: Path, config: dict[str, Any] | None = None) -> Path:
    """A folder in the Hugging Face layout; its tensors are not those of the class, which an import need not know."""
    place.mkdir(parents=True)
    save(place / "model.safetensors", made_by="somebody else")
    (place / "config.json").write_text(json.dumps(config or CONFIG))
    (place / "tokenizer.json").write_text('{"version": "1.0"}')
    (place / "vocab.txt").write_text("[PAD]\nlight\nmill\n")
    (place / "README.md").write_text("# A model\n")
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return place


def sharded_folder(place: Path) -> Path:
    """The same in two shards with an index."""
    folder_of(place)
    (place / "model.safetensors").unlink()
    names = sorted(state())
    halves = {"model-00001-of-00002.safetensors": names[:2], "model-00002-of-00002.safetensors": names[2:]}
    for shard, held in halves.items():
        save(place / shard, {name: state()[name] for name in held})
    weight_map = {name: shard for shard, held in halves.items() for name in held}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    return place


def same_state(registry: Registry, id: VersionId, expected: dict[str, torch.Tensor] | None = None) -> bool:
    found = load_tensors(registry.open(id))
    expected = expected or state()
    return found.keys() == expected.keys() and all(
        (found[name].dtype, found[name].shape) == (value.dtype, value.shape) and torch.equal(found[name], value)
        for name, value in expected.items()
    )


def card_of(registry: Registry, summary: VersionSummary) -> ModelCard:
    card = registry.open(summary.id).manifest.model
    assert card is not None
    return card
