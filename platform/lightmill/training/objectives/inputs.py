"""What a model is given: features or token ids, from which columns, and how large it must be for them."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch

from lightmill.datasets.columns import FEATURES
from lightmill.datasets.reading import feature_rows
from lightmill.errors import RequestError
from lightmill.models.answers import feature_inputs, token_inputs
from lightmill.models.architectures import OF_TOKENS
from lightmill.models.categories import category_places
from lightmill.records.assets import DatasetCard
from lightmill.records.fitted import TokenPreparation
from lightmill.records.signature import Architecture, TensorSpec
from lightmill.training.objectives.port import Batch


class Inputs(Protocol):
    """The inputs of one dataset's models.

    Attributes:
        reads_tokens: Whether they are token ids.
        columns: The columns they are made of.
        row_bytes: The bytes of one row.
        specs: The inputs of a signature.
    """

    reads_tokens: bool
    columns: tuple[str, ...]
    row_bytes: int
    specs: tuple[TensorSpec, ...]

    def tensors(self, table: pa.Table) -> Batch:
        """Return prepared rows as tensors on the CPU; RequestError if a value does not fit the model."""
        ...

    def sized(self, architecture: Architecture) -> Architecture:
        """Return the architecture with the sizes that the dataset decides; RequestError if it gives other ones."""
        ...


class FeatureInputs:
    """Features float32 [batch, features]."""

    reads_tokens = False

    def __init__(self, card: DatasetCard) -> None:
        """Look at what the dataset has; RequestError if it has no features."""
        self._card = card
        self._width = math.prod(card.features.shape)
        if not self._width:
            raise RequestError("The dataset has no features; declare columns with role 'feature' and ingest again.")
        self.columns = (FEATURES,)
        self.row_bytes = self._width * torch.float32.itemsize
        self.specs = feature_inputs(card.features, card.preparation)

    def tensors(self, table: pa.Table) -> Batch:
        """See `Inputs`."""
        return (torch.from_numpy(feature_rows(table)),)

    def sized(self, architecture: Architecture) -> Architecture:
        """See `Inputs`."""
        found = architecture.with_sizes(inputs=self._width)
        if architecture.name != "tabular" or "category_places" in architecture.arguments or not self._card.preparation:
            return found
        places, sizes = category_places(self._card.preparation)
        return found.with_arguments(category_places=places, category_sizes=sizes)


class TokenInputs:
    """Token ids and segments int64 [batch, length]; segment 0 is padding."""

    reads_tokens = True

    def __init__(self, card: DatasetCard, objective: str) -> None:
        """Look at what the dataset has; RequestError if it has no token ids, or nothing says which are padding."""
        tokens = card.tokens
        if tokens is None:
            steps = "`tokenize` and `pack`" if objective == "causal_lm" else "`tokenize` with `length` and `mask`"
            raise RequestError(
                f"`objective: {objective}` needs token ids, and the dataset has none; put {steps} into `prepare` and "
                "ingest again."
            )
        if tokens.segments is None:
            raise RequestError(
                f"Nothing says which ids of column {tokens.column!r} are padding; set `mask: true` in `tokenize`, or "
                "`pack`, and ingest again."
            )
        self.preparation = tokens
        self.columns = (tokens.column, tokens.segments)
        self.row_bytes = 2 * tokens.length * torch.int64.itemsize
        self.specs = token_inputs(tokens.column)
        self._known = tokens.vocabulary or 0

    def tensors(self, table: pa.Table) -> Batch:
        """See `Inputs`."""
        ids, segments = (_matrix(table.column(name), self.preparation.length) for name in self.columns)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self._known:
            raise RequestError(
                f"Column {self.preparation.column!r} holds token ids from {ids.min()} to {ids.max()}, but the model "
                f"knows 0 to {self._known - 1}; correct architecture.arguments.vocabulary."
            )
        return torch.from_numpy(ids), torch.from_numpy(segments)

    def sized(self, architecture: Architecture) -> Architecture:
        """See `Inputs`; `vocabulary` and `context` may be larger than the dataset needs."""
        found = with_token_sizes(architecture, self.preparation)
        self._known = int(found.arguments["vocabulary"])  # pyright: ignore[reportArgumentType]
        return found


def inputs_of(card: DatasetCard, architecture: Architecture, objective: str) -> FeatureInputs | TokenInputs:
    """Return the inputs of an architecture: what its name says; of an entrypoint, features if the dataset has them.

    Raises:
        RequestError: The dataset lacks them.
    """
    if architecture.entrypoint is not None:
        tokens = card.tokens is not None and not math.prod(card.features.shape)
    else:
        tokens = architecture.name in OF_TOKENS
    return TokenInputs(card, objective) if tokens else FeatureInputs(card)


def with_token_sizes(architecture: Architecture, tokens: TokenPreparation) -> Architecture:
    """Return the architecture with `vocabulary` and `context`, which may be larger than the dataset needs.

    Raises:
        RequestError: They are smaller, or nobody says how many token ids there are.
    """
    if tokens.vocabulary is None and "vocabulary" not in architecture.arguments:
        raise RequestError("No tokenizer says how many token ids there are; give architecture.arguments.vocabulary.")
    needed = {"vocabulary": tokens.vocabulary or 1, "context": tokens.length}
    for key, least in needed.items():
        given = architecture.arguments.get(key, least)
        if not isinstance(given, int) or given < least:
            raise RequestError(
                f"architecture.arguments.{key} is {given!r}, but the dataset needs {least}; leave {key} out."
            )
    return architecture.model_copy(update={"arguments": {**needed, **architecture.arguments}})


def _matrix(column: pa.ChunkedArray, length: int) -> np.ndarray:
    """Return lists of fixed size as int64 [rows, length], writable."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.astype(np.int64).reshape(len(column), length)
