"""Small problems that all strategies are tried on."""

from __future__ import annotations

from typing import Any

import torch

from lightmill.records.signature import Architecture
from lightmill.training.objectives import CausalLanguage, CrossEntropy
from tests.attacks.scene import dataset_card
from tests.teams import Case
from tests.unit.training.test_objectives import documents_of, packed, texts


def labelled(rows: int = 50) -> Case:
    """A perceptron on eight numbers and four classes; the rows do not divide by the batch."""
    card = dataset_card(classes=tuple("abcd"))
    shaped = card.model_copy(update={"features": card.features.model_copy(update={"shape": (8,)})})
    objective = CrossEntropy(shaped, Architecture(name="mlp", arguments={"hidden": [16, 8]}))
    features = torch.randn(rows, 8, generator=torch.Generator().manual_seed(4))
    return Case(objective=objective, rows=(features, features[:, :4].argmax(dim=1)))


def language(rows: int = 26) -> Case:
    """A decoder on packed documents, whose rows predict unlike numbers of tokens."""
    return _language({"width": 16, "layers": 4, "heads": 4}, rows)


def worded(rows: int = 25) -> Case:
    """One with tokens that no document has: four workers have three, three, three and one of them.

    The last step has one row, so that some share of it has none.
    """
    return _language({"width": 16, "layers": 4, "heads": 4, "vocabulary": 10}, rows)


def untied(rows: int = 26) -> Case:
    """One with its own matrix for logits, and two query heads to each head of keys and values."""
    return _language(
        {"width": 16, "layers": 3, "heads": 4, "kv_heads": 2, "tied": False, "vocabulary": 12, "feed_forward": 32}, rows
    )


def _language(arguments: dict[str, Any], rows: int) -> Case:
    objective = CausalLanguage(texts(), Architecture(name="decoder", arguments=arguments))
    found = objective.tensors(packed(documents_of(5, rows=80)))
    return Case(objective=objective, rows=tuple(tensor[:rows] for tensor in found))
