"""Architectures of the package transformers, built from a configuration with fresh weights."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lightmill.errors import RequestError
from lightmill.models.decoder import attention_mask

KINDS = {"causal_lm": "AutoModelForCausalLM", "sequence_classification": "AutoModelForSequenceClassification"}
PREFIX = "inner."


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSizes:
    """How many token ids a model knows, and the most tokens of a row."""

    vocabulary: int
    context: int


class Transformer(nn.Module):
    """A model of transformers that takes token ids and segments, and gives logits alone.

    Its tensors have the names that the package gives them, after `inner.`.
    """

    def __init__(self, inner: nn.Module, kind: str, sizes: TokenSizes) -> None:
        super().__init__()
        self.inner = inner
        self.kind = kind
        self.sizes = sizes

    def forward(self, tokens: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits: [batch, length, vocabulary] of a causal language model, [batch, classes] of a classifier.

        Args:
            tokens: int64 [batch, length].
            segments: Integers [batch, length], 0 for padding; a causal model keeps documents of one row apart by them.
        """
        if len(tokens) == 0:
            return self._nothing(tokens)
        if segments is None:
            mask = None
        else:
            mask = attention_mask(segments) if self.kind == "causal_lm" else (segments != 0).long()
        more = {"use_cache": False} if self.kind == "causal_lm" else {}
        return self.inner(input_ids=tokens, attention_mask=mask, **more).logits

    def _nothing(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits of no rows, which reach every parameter with gradients of 0."""
        config: Any = self.inner.config
        shape = (0, tokens.shape[1], config.vocab_size) if self.kind == "causal_lm" else (0, config.num_labels)
        zero = sum((parameter.sum() * 0.0 for parameter in self.parameters()), torch.zeros((), device=tokens.device))
        return torch.zeros(shape, device=tokens.device) + zero


def transformers(
    *, config: dict[str, Any], kind: str, vocabulary: int, context: int, classes: int | None = None
) -> nn.Module:
    """Return a model of transformers with fresh weights: token ids int64 [batch, length] to logits.

    `config` is as its `config.json`, with `model_type`; sizes that it leaves out are the dataset's. `kind` is
    `causal_lm` or `sequence_classification`.

    Raises:
        ValueError: A size of `config` is too small for the dataset, or there is no such kind or model type.
        RequestError: The package is not installed.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is one of {', '.join(KINDS)}")
    package = _package()
    rest = dict(config)
    model_type = rest.pop("model_type", None)
    if not isinstance(model_type, str):
        raise ValueError("config has no model_type, such as 'llama' or 'bert'")
    for key, least in (("vocab_size", vocabulary), ("max_position_embeddings", context)):
        given = rest.setdefault(key, least)
        if not isinstance(given, int) or given < least:
            raise ValueError(f"config.{key} is {given!r}, but the dataset needs {least}")
    if kind == "sequence_classification":
        rest["num_labels"] = classes or 2
        rest.setdefault("pad_token_id", 0)
    try:
        made = package.AutoConfig.for_model(model_type, **rest)
        inner = getattr(package, KINDS[kind]).from_config(made)
    except (KeyError, AttributeError) as exc:
        raise ValueError(f"transformers has no such model: {exc}") from exc
    return Transformer(inner, kind, TokenSizes(vocabulary=rest["vocab_size"], context=context))


def _package() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as exc:
        raise RequestError(
            f"Architecture 'transformers' needs the package transformers ({exc}). Install it with: "
            "pip install 'lightmill[hf]'"
        ) from exc
