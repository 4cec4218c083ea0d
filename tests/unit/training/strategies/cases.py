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


def told_apart(rows: int = 25) -> Case:
    """An encoder of texts of unlike lengths with three classes, which does not divide by two workers."""
    card = texts().model_copy(update={"classes": tuple("abc")})
    arguments = {"width": 16, "layers": 4, "heads": 4, "vocabulary": 10, "dropout": 0.0}
    objective = CrossEntropy(card, Architecture(name="encoder", arguments=arguments))
    chance = torch.Generator().manual_seed(6)
    tokens = torch.randint(0, 9, (rows, 8), generator=chance)
    there = torch.arange(8) < torch.randint(1, 9, (rows, 1), generator=chance)
    return Case(objective=objective, rows=(tokens, there.long(), tokens[:, 0] % 3))


def with_categories(rows: int = 50) -> Case:
    """A perceptron on six numbers and two categories."""
    card = dataset_card(classes=tuple("abcd"))
    shaped = card.model_copy(update={"features": card.features.model_copy(update={"shape": (8,)})})
    arguments: dict[str, Any] = {"hidden": [16, 8, 8], "category_places": [0, 5], "category_sizes": [3, 4]}
    objective = CrossEntropy(shaped, Architecture(name="tabular", arguments=arguments))
    features = torch.randn(rows, 8, generator=torch.Generator().manual_seed(4))
    features[:, 0], features[:, 5] = torch.arange(rows) % 3, torch.arange(rows) % 4
    return Case(objective=objective, rows=(features, features[:, :4].argmax(dim=1)))


def _language(arguments: dict[str, Any], rows: int) -> Case:
    objective = CausalLanguage(texts(), Architecture(name="decoder", arguments=arguments))
    found = objective.tensors(packed(documents_of(5, rows=80)))
    return Case(objective=objective, rows=tuple(tensor[:rows] for tensor in found))
