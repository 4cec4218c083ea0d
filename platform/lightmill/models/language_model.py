"""A language model as it is served: token ids in, logits of what follows each token out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lightmill.errors import RequestError
from lightmill.models.answers import Logits
from lightmill.records.assets import ModelCard

ANSWER_VALUES = 1 << 22
WARM_UP_TOKENS = 32

Tokens = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int64]


class LanguageModel:
    """Computes logits; thread-safe, since nothing of it changes.

    `shape` is that of a row to warm up with; rows of a request may have any length up to the model's context. A token
    sees none that come after it, so that rows of unequal lengths may be filled up on the right with any id.
    """

    dtype = np.int64
    pad_id, pad_right = 0, True

    def __init__(self, card: ModelCard, module: nn.Module, device: str = "cpu") -> None:
        self.card = card
        self._module = module.eval().to(device)
        self._context = int(card.architecture.arguments["context"])  # pyright: ignore[reportArgumentType] - a size
        self._vocabulary = card.signature.outputs[0].shape[-1]
        self._device = torch.device(device)
        self.shape = (min(self._context, WARM_UP_TOKENS),)

    @property
    def rows_together(self) -> int:
        """How many rows of full length are computed at once: logits take memory as the vocabulary does."""
        return max(1, ANSWER_VALUES // (self._context * self._vocabulary))

    @property
    def longest(self) -> int:
        """How many tokens a row may have."""
        return self._context

    def check(self, tokens: Tokens) -> None:
        """Check a request.

        Raises:
            RequestError: A token id is unknown, a row is longer than the context, or the answer would be too large.
        """
        rows, length = tokens.shape
        vocabulary, context = self._vocabulary, self._context
        if length > context or not length:
            raise RequestError(f"A row has {length} tokens; the model takes 1 to {context}.")
        if rows * length * vocabulary > ANSWER_VALUES:
            raise RequestError(
                f"{rows} rows of {length} tokens have {rows * length * vocabulary:,} logits; an answer holds at most "
                f"{ANSWER_VALUES:,}. Send fewer or shorter rows."
            )
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= vocabulary:
            raise RequestError(f"Token id {low if low < 0 else high} is unknown; ids are 0 to {vocabulary - 1}.")

    def predict(self, tokens: Tokens, lengths: Lengths | None = None) -> Logits:
        """Return the logits for token ids int64 [rows, length]; after the first `lengths` they mean nothing."""
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64)).to(self._device)
            return Logits(logits=self._module(batch).float().cpu().numpy())
