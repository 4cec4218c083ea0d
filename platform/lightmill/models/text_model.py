"""Models that classify or measure texts as they are served: token ids in, one answer for each row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lightmill.errors import RequestError
from lightmill.models.answers import Answers, Values
from lightmill.models.classifier import answers
from lightmill.models.language_model import WARM_UP_TOKENS, Lengths, Tokens
from lightmill.records.assets import ModelCard
from lightmill.records.fitted import FittedTokenize, TokenPreparation

COMPUTED_TOKENS = 1 << 16


class OfTokens:
    """Computes on rows of token ids; thread-safe, since nothing of it changes.

    Rows of a request may have any length up to the model's context. Padding at the side where the dataset's tokenizer
    pads is left out of account, so that a row means the same with it and without; `pad_id` and `pad_right` say how rows
    of unequal lengths are filled up to be computed together.
    """

    dtype = np.int64

    def __init__(self, card: ModelCard, module: nn.Module, device: str = "cpu") -> None:
        self.card = card
        self._module = module.eval().to(device)
        self._device = torch.device(device)
        self._vocabulary, self._context = (
            int(card.architecture.arguments[name])  # pyright: ignore[reportArgumentType] - the objective put them there
            for name in ("vocabulary", "context")
        )
        self._padding = padding_of(card.tokens)
        self.pad_id, self.pad_right = self._padding or (0, True)
        self.shape = (min(self._context, WARM_UP_TOKENS),)

    @property
    def rows_together(self) -> int:
        """How many rows of full length are computed at once."""
        return max(1, COMPUTED_TOKENS // self._context)

    @property
    def longest(self) -> int:
        """How many tokens a row may have."""
        return self._context

    def check(self, tokens: Tokens) -> None:
        """Check a request.

        Raises:
            RequestError: A token id is unknown, or a row is longer than the context.
        """
        length = tokens.shape[1]
        if length > self._context or not length:
            raise RequestError(f"A row has {length} tokens; the model takes 1 to {self._context}.")
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self._vocabulary:
            raise RequestError(f"Token id {low if low < 0 else high} is unknown; ids are 0 to {self._vocabulary - 1}.")

    def outputs(self, tokens: Tokens, lengths: Lengths | None = None) -> torch.Tensor:
        """Return what the module gives for int64 [rows, length], on the CPU; see `there` for `lengths`."""
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64)).to(self._device)
            there = torch.from_numpy(self.there(tokens, lengths).astype(np.int64)).to(self._device)
            return self._module(batch, there).float().cpu()

    def there(self, tokens: Tokens, lengths: Lengths | None = None) -> npt.NDArray[np.bool_]:
        """Return which tokens are no padding, bool [rows, length]; of a row of padding, the first one.

        `lengths` are those of rows that were filled up with `pad_id`. A tokenizer that never pads has no id that would
        tell, so that they alone do.
        """
        if self._padding is None:
            if lengths is None:
                return np.ones(tokens.shape, dtype=bool)
            return np.arange(tokens.shape[1]) < lengths[:, None]
        pad, right = self._padding
        kept = tokens != pad
        kept[~kept.any(axis=1), 0 if right else -1] = True
        if right:
            return np.logical_or.accumulate(kept[:, ::-1], axis=1)[:, ::-1]
        return np.logical_or.accumulate(kept, axis=1)


class TextClassifier(OfTokens):
    """Tells classes of texts apart."""

    def predict(self, tokens: Tokens, lengths: Lengths | None = None) -> Answers:
        """Return the answers for int64 [rows, length], of which the first `lengths` of each row count."""
        return answers(self.outputs(tokens, lengths))


class TextRegressor(OfTokens):
    """Predicts a number for a text."""

    def predict(self, tokens: Tokens, lengths: Lengths | None = None) -> Values:
        """Return the answers for int64 [rows, length], of which the first `lengths` of each row count."""
        return Values(value=self.outputs(tokens, lengths)[:, 0].numpy())


def padding_of(tokens: TokenPreparation | None) -> tuple[int, bool] | None:
    """Return the id that the dataset's tokenizer pads with, and whether it pads on the right; None if it does not."""
    for step in tokens.fitted.steps if tokens else ():
        if isinstance(step, FittedTokenize) and tokens and step.declared.output == tokens.column:
            return step.pad_id, step.declared.pad == "right"
    return None
