"""Causal language modelling: the cross-entropy of each next token within its document."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.nn import functional

from lightmill.errors import RequestError
from lightmill.models.answers import signature_of_tokens
from lightmill.models.architectures import OF_TOKENS
from lightmill.records.assets import DatasetCard
from lightmill.records.fitted import TokenPreparation
from lightmill.records.signature import Architecture, Signature
from lightmill.training.objectives.port import Batch, Objective, Step

NO_LOSS = -100
LARGEST_EXPONENT = 700.0


class CausalLanguage(Objective):
    """Batches are token ids and segments, int64 [batch, length].

    A token is predicted from the tokens of its own document before it; the first token of a document is not predicted,
    and padding (segment 0) neither. Metrics are the mean loss in nats, its perplexity, and predicted tokens per second.
    """

    name = "causal_lm"
    weighted = True
    labelled = False
    held_out = ("loss", "perplexity")

    def __init__(self, card: DatasetCard, architecture: Architecture) -> None:
        tokens = card.tokens
        if tokens is None:
            raise RequestError(
                "`objective: causal_lm` needs token ids, and the dataset has none; put `tokenize` and `pack` into "
                "`prepare` and ingest again."
            )
        if tokens.segments is None:
            raise RequestError(
                f"Nothing says which ids of column {tokens.column!r} are padding; set `mask: true` in `tokenize`, or "
                "`pack`, and ingest again."
            )
        self._tokens = tokens
        self.columns = (tokens.column, tokens.segments)
        self.architecture = _sized(architecture, tokens)
        self._vocabulary = int(self.architecture.arguments["vocabulary"])  # pyright: ignore[reportArgumentType]

    @property
    def row_bytes(self) -> int:
        """See the base."""
        return 2 * self._tokens.length * torch.int64.itemsize

    def tensors(self, table: pa.Table) -> Batch:
        """See the base."""
        ids, segments = (_matrix(table.column(name), self._tokens.length) for name in self.columns)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self._vocabulary:
            raise RequestError(
                f"Column {self._tokens.column!r} holds token ids from {ids.min()} to {ids.max()}, but the model knows "
                f"0 to {self._vocabulary - 1}; correct architecture.arguments.vocabulary."
            )
        return torch.from_numpy(ids), torch.from_numpy(segments)

    def count(self, batch: Batch) -> torch.Tensor | int:
        """Return the predicted tokens."""
        return (next_tokens(*batch) != NO_LOSS).sum()

    def step(self, module: nn.Module, batch: Batch) -> Step:
        """See the base."""
        tokens, segments = batch
        logits = module(tokens, segments)[:, :-1]
        targets = next_tokens(tokens, segments)
        count = (targets != NO_LOSS).sum()
        total = functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=NO_LOSS, reduction="sum"
        )
        return Step(loss=total / count.clamp(min=1), count=count)

    def add_up(self, steps: Sequence[Step]) -> torch.Tensor:
        """Return the summed loss and the predicted tokens."""
        counts = torch.stack([torch.as_tensor(step.count) for step in steps]).double()
        losses = torch.stack([step.loss.detach() for step in steps]).double()
        return torch.stack([(losses * counts).sum(), counts.sum()]).cpu()

    def metrics(self, totals: torch.Tensor) -> dict[str, float]:
        """See the base."""
        total, count = totals.tolist()
        loss = total / max(count, 1.0)
        return {"loss": loss, "perplexity": math.exp(min(loss, LARGEST_EXPONENT))}

    def rates(self, totals: torch.Tensor, seconds: float) -> dict[str, float]:
        """Return the tokens that all workers predicted in a second."""
        return {"tokens_per_second": float(totals[1]) / seconds}

    def rows_together(self, batch_rows: int) -> int:
        """See the base."""
        return batch_rows

    def signature(self) -> Signature:
        """See the base."""
        return signature_of_tokens(self._tokens.column, self._vocabulary)


def next_tokens(tokens: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """Return what is to be predicted: int64 [batch, length - 1], `NO_LOSS` where nothing is."""
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != 0)
    return torch.where(same, tokens[:, 1:], NO_LOSS)


def _sized(architecture: Architecture, tokens: TokenPreparation) -> Architecture:
    """Return the architecture with `vocabulary` and `context`, which may be larger than the dataset needs."""
    if architecture.name not in OF_TOKENS:
        raise RequestError(
            f"`objective: causal_lm` needs an architecture of token ids, one of {', '.join(sorted(OF_TOKENS))}; "
            f"{architecture.name!r} takes features."
        )
    if tokens.vocabulary is None and "vocabulary" not in architecture.arguments:
        raise RequestError("No tokenizer says how many token ids there are; give architecture.arguments.vocabulary.")
    needed = {"vocabulary": tokens.vocabulary or 1, "context": tokens.length}
    for key, least in needed.items():
        given = architecture.arguments.get(key, least)
        if not isinstance(given, int) or given < least:
            raise RequestError(
                f"architecture.arguments.{key} is {given!r}, but the dataset needs {least}; leave {key} out."
            )
    return Architecture(name=architecture.name, arguments={**needed, **architecture.arguments})


def _matrix(column: pa.ChunkedArray, length: int) -> np.ndarray:
    """Return lists of fixed size as int64 [rows, length], writable."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.astype(np.int64).reshape(len(column), length)
