"""A decoder-only transformer in the style of Llama, over token ids.

Sources: H. Touvron et al., "Llama 2: Open foundation and fine-tuned chat models" (2023), for the whole; the parts name
theirs. Weights are drawn as A. Radford et al., "Language models are unsupervised multitask learners" (2019), draw them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

_WIDTH_STEP = 32
_DEVIATION = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSizes:
    """The sizes of a decoder.

    Attributes:
        vocabulary: The number of token ids.
        context: The most tokens of a row.
        width: Values of a token between layers.
        layers: Blocks of attention and feed-forward network.
        heads: Attention heads, which share the width.
        kv_heads: Heads of keys and values, each used by heads / kv_heads query heads.
        feed_forward: Values of a token inside the feed-forward network.
        theta: The base of the rotary wave lengths.
        epsilon: What keeps the normalization from dividing by zero.
        tied: Whether the embedding is used to read the logits as well.
    """

    vocabulary: int
    context: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    theta: float
    epsilon: float
    tied: bool

    def __post_init__(self) -> None:
        for name in ("vocabulary", "context", "width", "layers", "heads", "kv_heads", "feed_forward"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, and must be at least 1")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of 2 x heads, {2 * self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")

    @property
    def head(self) -> int:
        """Values of a token in one head."""
        return self.width // self.heads


def decoder(
    *,
    vocabulary: int,
    context: int,
    width: int = 256,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int = 0,
    feed_forward: int = 0,
    theta: float = 10_000.0,
    epsilon: float = 1e-5,
    tied: bool = True,
) -> nn.Module:
    """Return a decoder: token ids int64 [batch, length] to logits float32 [batch, length, vocabulary].

    `kv_heads` 0 is as many as `heads`; `feed_forward` 0 is 8/3 of the width, rounded up to a multiple of 32, with which
    the three matrices of SwiGLU have as many weights as the two of width 4 that they replace.
    """
    sizes = DecoderSizes(
        vocabulary=vocabulary,
        context=context,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads or heads,
        feed_forward=feed_forward or feed_forward_width(width),
        theta=theta,
        epsilon=epsilon,
        tied=tied,
    )
    return Decoder(sizes)


class Decoder(nn.Module):
    """Predicts each next token from the tokens before it."""

    cosine: torch.Tensor
    sine: torch.Tensor

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.norm = nn.RMSNorm(sizes.width, eps=sizes.epsilon)
        self.head = None if sizes.tied else nn.Linear(sizes.width, sizes.vocabulary, bias=False)
        cosine, sine = rotary_table(sizes.context, sizes.head, sizes.theta)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        self._draw()

    def forward(
        self, tokens: torch.Tensor, segments: torch.Tensor | None = None, part: slice | None = None
    ) -> torch.Tensor:
        """Return logits [batch, length, vocabulary] of what follows each token.

        Args:
            tokens: int64 [batch, length], with a length of at most `context`.
            segments: Integers [batch, length]: a token sees the tokens before it that have its own number, so that
                documents packed into one row do not see one another. None is one document a row.
            part: The positions to compute, where `Attention.gather` brings keys and values of the others; None is all.
        """
        length = tokens.shape[1]
        if length > self.sizes.context:
            raise ValueError(f"{length} tokens are more than the context of {self.sizes.context}")
        rotary = (self.cosine[:length], self.sine[:length])
        mask = None if segments is None else attention_mask(segments)
        if part is not None:
            mask = (attention_mask(torch.zeros_like(tokens)) if mask is None else mask)[:, :, part]
            rotary = (rotary[0][part], rotary[1][part])
            tokens = tokens[:, part]
        values = self.embedding(tokens)
        for block in self.blocks:
            values = block(values, rotary, mask)
        values = self.norm(values)
        return functional.linear(values, self.embedding.weight) if self.head is None else self.head(values)

    def _draw(self) -> None:
        """Draw weights; those that add to the residual stream are smaller, since 2 x layers of them add up."""
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                share = math.sqrt(2 * self.sizes.layers) if name.endswith(("out.weight", "down.weight")) else 1.0
                nn.init.normal_(weight, std=_DEVIATION / share)


class Block(nn.Module):
    """Attention, then a feed-forward network, each on normalized values and added to them.

    The normalization is of B. Zhang and R. Sennrich, "Root mean square layer normalization" (NeurIPS 2019).
    """

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(sizes.width, eps=sizes.epsilon)
        self.attention = Attention(sizes)
        self.feed_forward_norm = nn.RMSNorm(sizes.width, eps=sizes.epsilon)
        self.feed_forward = SwiGlu(sizes)

    def forward(
        self, values: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return [batch, length, width]."""
        values = values + self.attention(self.attention_norm(values), rotary, mask)
        return values + self.feed_forward(self.feed_forward_norm(values))


class Attention(nn.Module):
    """Causal attention in which groups of query heads share keys and values.

    J. Ainslie et al., "GQA: Training generalized multi-query transformer models from multi-head checkpoints" (2023).

    Attributes:
        gather: Makes keys and values [2, batch, kv_heads, length, size] of those of all workers that share the rows,
            where each computes a part of the positions.
    """

    gather: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = sizes.heads, sizes.kv_heads, sizes.head
        self.query = nn.Linear(sizes.width, sizes.heads * sizes.head, bias=False)
        self.key = nn.Linear(sizes.width, sizes.kv_heads * sizes.head, bias=False)
        self.value = nn.Linear(sizes.width, sizes.kv_heads * sizes.head, bias=False)
        self.out = nn.Linear(sizes.heads * sizes.head, sizes.width, bias=False)

    def forward(
        self, values: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return [batch, length, width]; `mask` broadcasts to [batch, 1, length, all], None where it is causal only."""
        batch, length, _ = values.shape
        query = self.query(values).view(batch, length, self.heads, self.size).transpose(1, 2)
        key = self.key(values).view(batch, length, self.kv_heads, self.size).transpose(1, 2)
        value = self.value(values).view(batch, length, self.kv_heads, self.size).transpose(1, 2)
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        if self.gather is not None:
            key, value = self.gather(torch.stack([key, value.to(key.dtype)]))
        found = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=self.kv_heads != self.heads,
        )
        return self.out(found.transpose(1, 2).reshape(batch, length, self.heads * self.size))


class SwiGlu(nn.Module):
    """A gated feed-forward network: N. Shazeer, "GLU variants improve transformer" (2020)."""

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.gate = nn.Linear(sizes.width, sizes.feed_forward, bias=False)
        self.up = nn.Linear(sizes.width, sizes.feed_forward, bias=False)
        self.down = nn.Linear(sizes.feed_forward, sizes.width, bias=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return [batch, length, width]."""
        return self.down(functional.silu(self.gate(values)) * self.up(values))


def feed_forward_width(width: int) -> int:
    """Return 8/3 of a width, rounded up to a multiple of 32."""
    return math.ceil(8 * width / 3 / _WIDTH_STEP) * _WIDTH_STEP


def rotary_table(length: int, size: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine float32 [length, size / 2] of each position's angles.

    J. Su et al., "RoFormer: Enhanced transformer with rotary position embedding" (2021).
    """
    waves = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), waves)
    return angles.cos().float(), angles.sin().float()


def rotate(values: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (i, i + size / 2) of values [batch, heads, length, size] by their position's angles.

    The product of two turned vectors depends on the distance of their positions alone, so positions need not start anew
    with each document of a row.
    """
    first, second = values.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def attention_mask(segments: torch.Tensor) -> torch.Tensor:
    """Return bool [batch, 1, length, length]: true where a token (row) may see another (column)."""
    same = segments[:, :, None] == segments[:, None, :]
    return same.tril()[:, None]
