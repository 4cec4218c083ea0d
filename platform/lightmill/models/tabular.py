"""A perceptron over numbers and categories, which become learnt vectors.

C. Guo and F. Berkhahn, "Entity embeddings of categorical variables" (2016).
"""

from __future__ import annotations

import torch
from torch import nn

_WIDEST = 600


class Tabular(nn.Module):
    """Numbers as they are and categories by their embeddings, side by side, through a perceptron with ReLU."""

    places: torch.Tensor
    numbers: torch.Tensor

    def __init__(
        self, inputs: int, classes: int, hidden: list[int], places: list[int], sizes: list[int], dropout: float
    ) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.embeddings = nn.ModuleList(nn.Embedding(size, embedding_width(size)) for size in sizes)
        numbers = [place for place in range(inputs) if place not in set(places)]
        self.register_buffer("places", torch.tensor(places, dtype=torch.int64), persistent=False)
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.int64), persistent=False)
        width = len(numbers) + sum(map(embedding_width, sizes))
        layers: list[nn.Module] = []
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, classes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, classes] of float32 [batch, inputs]; a code beyond its categories is the last one."""
        found = [features.index_select(1, self.numbers)]
        codes = features.index_select(1, self.places).long()
        for place, (embedding, size) in enumerate(zip(self.embeddings, self.sizes, strict=True)):
            found.append(embedding(codes[:, place].clamp(0, size - 1)))
        return self.layers(torch.cat(found, dim=1))


def tabular(
    *,
    inputs: int,
    classes: int,
    hidden: list[int],
    category_places: list[int] | None = None,
    category_sizes: list[int] | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """Return a perceptron with embeddings: float32 [batch, inputs] to [batch, classes].

    `category_places[i]` is the place among the inputs of codes 0 to `category_sizes[i]` - 1.
    """
    places, sizes = category_places or [], category_sizes or []
    if len(places) != len(sizes) or len(set(places)) != len(places):
        raise ValueError(f"category_places {places} and category_sizes {sizes} do not say one size for each place")
    if any(not 0 <= place < inputs for place in places) or any(size < 1 for size in sizes):
        raise ValueError(f"category_places {places} of {inputs} inputs, or category_sizes {sizes}, are out of range")
    return Tabular(inputs, classes, hidden, places, sizes, dropout)


def embedding_width(size: int) -> int:
    """Return the values of an embedding of so many categories: 1.6 x size ^ 0.56, as fastai has it."""
    return max(1, min(_WIDEST, round(1.6 * size**0.56)))
