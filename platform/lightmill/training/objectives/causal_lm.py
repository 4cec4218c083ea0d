"""Causal language modelling: the cross-entropy of each next token within its document."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyarrow as pa
import torch
from torch import nn
from torch.nn import functional

from lightmill.errors import RequestError
from lightmill.models.answers import signature_of_tokens
from lightmill.models.architectures import LANGUAGE
from lightmill.records.assets import DatasetCard
from lightmill.records.signature import Architecture, Signature
from lightmill.training.objectives.asked import Asked
from lightmill.training.objectives.inputs import TokenInputs
from lightmill.training.objectives.port import NOTHING, Batch, Objective, Step

NO_LOSS = -100
LARGEST_EXPONENT = 700.0


class CausalLanguage(Objective):
    """Batches are token ids and segments, int64 [batch, length].

    A token is predicted from the tokens of its own document before it; the first token of a document is not predicted,
    and padding (segment 0) neither. Metrics are the mean loss in nats, its perplexity, and predicted tokens per second.
    """

    name = "causal_lm"
    weighted = True
    measures = ("loss", "perplexity")
    held_out = ("loss", "perplexity")
    reads_tokens = True

    def __init__(self, card: DatasetCard, architecture: Architecture, asked: Asked = NOTHING) -> None:
        asked.refuse_others(self.name)
        asked.refuse_target(self.name)
        asked.refuse_weights(self.name)
        if asked.metrics:
            raise RequestError(f"`metrics: {list(asked.metrics)}` are not for causal_lm, which has its perplexity.")
        inputs = TokenInputs(card, self.name)
        if architecture.name not in LANGUAGE and architecture.entrypoint is None:
            raise RequestError(
                f"`objective: causal_lm` needs an architecture that predicts tokens, one of "
                f"{', '.join(sorted(LANGUAGE))}; {architecture.name!r} does something else."
            )
        self._inputs = inputs
        self.columns = inputs.columns
        self.architecture = inputs.sized(architecture)
        self._vocabulary = int(self.architecture.arguments["vocabulary"])  # pyright: ignore[reportArgumentType]

    @property
    def row_bytes(self) -> int:
        """See the base."""
        return self._inputs.row_bytes

    def tensors(self, table: pa.Table) -> Batch:
        """See the base."""
        return self._inputs.tensors(table)

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
        return signature_of_tokens(self._inputs.preparation.column, self._vocabulary)


def next_tokens(tokens: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """Return what is to be predicted: int64 [batch, length - 1], `NO_LOSS` where nothing is."""
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != 0)
    return torch.where(same, tokens[:, 1:], NO_LOSS)
