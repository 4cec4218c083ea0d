"""A transformer encoder that tells texts apart, over token ids: the decoder's blocks, where each token sees all others.

J. Devlin et al., "BERT: Pre-training of deep bidirectional transformers" (2019), for the whole; the parts are those of
`decoder`, which name their sources.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from lightmill.models.decoder import Block, DecoderSizes, feed_forward_width, rotary_table

_DEVIATION = 0.02


class Encoder(nn.Module):
    """Scores classes by all tokens of a row that are no padding."""

    cosine: torch.Tensor
    sine: torch.Tensor

    def __init__(self, sizes: DecoderSizes, classes: int, pooling: str, dropout: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.pooling = pooling
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.norm = nn.RMSNorm(sizes.width, eps=sizes.epsilon)
        self.head = nn.Linear(sizes.width, classes)
        cosine, sine = rotary_table(sizes.context, sizes.head, sizes.theta)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        self._draw()

    def forward(self, tokens: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
        """Return float32 [batch, classes].

        Args:
            tokens: int64 [batch, length], with a length of at most `context`.
            segments: Integers [batch, length], 0 for padding; None is no padding.
        """
        length = tokens.shape[1]
        if length > self.sizes.context:
            raise ValueError(f"{length} tokens are more than the context of {self.sizes.context}")
        rotary = (self.cosine[:length], self.sine[:length])
        there = seen(tokens, segments)
        values = self.dropout(self.embedding(tokens))
        for block in self.blocks:
            values = block(values, rotary, there[:, None, None, :])
        return self.head(self.dropout(self.pooled(self.norm(values), there)))

    def pooled(self, values: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return [batch, width] of [batch, length, width]: the mean of tokens that are there, or the first of them."""
        if self.pooling == "first":
            first = there.int().argmax(dim=1)
            return values[torch.arange(len(values), device=values.device), first]
        weight = there.unsqueeze(-1).to(values.dtype)
        return (values * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)

    def _draw(self) -> None:
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                share = math.sqrt(2 * self.sizes.layers) if name.endswith(("out.weight", "down.weight")) else 1.0
                nn.init.normal_(weight, std=_DEVIATION / share)


def encoder(
    *,
    vocabulary: int,
    context: int,
    classes: int,
    width: int = 128,
    layers: int = 2,
    heads: int = 4,
    feed_forward: int = 0,
    pooling: str = "mean",
    dropout: float = 0.1,
    theta: float = 10_000.0,
    epsilon: float = 1e-5,
) -> nn.Module:
    """Return an encoder: token ids int64 [batch, length] to float32 [batch, classes].

    `pooling` is `mean` over the tokens, or the `first` one, such as a [CLS] that the tokenizer puts there.
    `feed_forward` 0 is as in `decoder`.
    """
    if pooling not in ("mean", "first"):
        raise ValueError(f"pooling {pooling!r} is mean or first")
    sizes = DecoderSizes(
        vocabulary=vocabulary,
        context=context,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        feed_forward=feed_forward or feed_forward_width(width),
        theta=theta,
        epsilon=epsilon,
        tied=False,
    )
    return Encoder(sizes, classes, pooling, dropout)


def seen(tokens: torch.Tensor, segments: torch.Tensor | None) -> torch.Tensor:
    """Return bool [batch, length]: which tokens are no padding; in a row of padding only, all are."""
    if segments is None:
        return torch.ones_like(tokens, dtype=torch.bool)
    there = segments != 0
    return there | ~there.any(dim=1, keepdim=True)
