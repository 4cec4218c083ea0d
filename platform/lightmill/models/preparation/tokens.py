"""Text to token ids with the `tokenizers` library: the tokenizer travels in the fitted record, not as a path."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.errors import IntegrityError, NotFoundError, RequestError
from lightmill.models.preparation.columns import texts, with_column
from lightmill.records.fitted import FittedTokenize
from lightmill.records.preparation import Tokenize

TOKENIZER_BYTES_MAX = 64 << 20


def embed(step: Tokenize, folder: Path) -> FittedTokenize:
    """Return the step with the tokenizer's file, whose path is relative to `folder`, taken in by value.

    Raises:
        NotFoundError: There is no such file.
        RequestError: It is larger than 64 MiB or no tokenizer, or the package is not installed.
    """
    path = folder / step.file
    if not path.is_file():
        raise NotFoundError(f"Step 'tokenize': no file at {path}. Give the path of a tokenizer.json.")
    if path.stat().st_size > TOKENIZER_BYTES_MAX:
        raise RequestError(f"Step 'tokenize': {path} has {path.stat().st_size:,} bytes; the limit is 64 MiB.")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RequestError(f"Step 'tokenize': {path} is not UTF-8. Give a tokenizer.json.") from exc
    _load(text)
    padding = json.loads(text).get("padding") or {}
    pad_id = int(padding.get("pad_id", 0)) if step.pad_id is None else step.pad_id
    return FittedTokenize(declared=step, sha256=hashlib.sha256(data).hexdigest(), pad_id=pad_id, text=text)


def vocabulary_size(step: FittedTokenize) -> int:
    """Return one more than the largest id of a tokenizer that is in its record.

    Raises:
        RequestError: It is not in the record, is no tokenizer, or the package is not installed.
    """
    if step.text is None:
        raise RequestError(f"Step 'tokenize': the tokenizer {step.sha256} is not in the record.")
    return max(_load(step.text).get_vocab(with_added_tokens=True).values(), default=0) + 1


class Tokenization:
    """A fitted `tokenize` step made ready to apply."""

    def __init__(self, step: FittedTokenize, assets: Mapping[str, bytes]) -> None:
        """Build the tokenizer from the record, or from `assets` (SHA-256 in hex to bytes).

        Raises:
            RequestError: It is in neither, or is no tokenizer, or the package is not installed.
            IntegrityError: It has another digest than the record says.
        """
        data = step.text.encode() if step.text is not None else assets.get(step.sha256)
        if data is None:
            raise RequestError(
                f"Step 'tokenize': the tokenizer {step.sha256} is not in the record; give it in `assets`."
            )
        if hashlib.sha256(data).hexdigest() != step.sha256:
            raise IntegrityError(f"Step 'tokenize': the tokenizer's digest is not {step.sha256}, as its record says.")
        self._step = step.declared
        self._pad_id = step.pad_id
        self._tokenizer = _load(data.decode("utf-8"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if self._step.length is not None:
            try:
                self._tokenizer.enable_truncation(self._step.length, direction=self._step.truncate)
            except ValueError as exc:
                raise RequestError(f"Step 'tokenize': length {self._step.length} is refused: {exc}.") from exc

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the column of token ids, and of its mask where one is asked for.

        The ids of NULL are none. The loop over rows that takes ids from the library is unavoidable.

        Raises:
            RequestError: The column is missing or holds no text.
        """
        text = texts(table, self._step.column, "tokenize")
        known = np.flatnonzero(np.asarray(text.is_valid().to_numpy(zero_copy_only=False)))
        found = self._tokenizer.encode_batch(text.drop_null().to_pylist(), add_special_tokens=self._step.special_tokens)
        lengths = np.zeros(len(text), dtype=np.int64)
        lengths[known] = [len(encoding) for encoding in found]
        ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in found), np.int32, int(lengths.sum()))
        return self._fixed(table, ids, lengths) if self._step.length else self._ragged(table, ids, lengths)

    def _ragged(self, table: pa.Table, ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> pa.Table:
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return with_column(table, self._step.output, pa.LargeListArray.from_arrays(offsets, pa.array(ids)))

    def _fixed(self, table: pa.Table, ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> pa.Table:
        length = self._step.length or 0
        places = np.arange(length)
        filled = places < lengths[:, None] if self._step.pad == "right" else places >= length - lengths[:, None]
        padded = np.full((len(lengths), length), self._pad_id, dtype=np.int32)
        padded[filled] = ids
        table = with_column(table, self._step.output, fixed_list(padded))
        if self._step.mask:
            table = with_column(table, f"{self._step.output}_mask", fixed_list(filled.astype(np.uint8)))
        return table


def fixed_list(values: npt.NDArray[Any]) -> pa.Array:
    """Return a matrix [rows, width] as a column of lists of fixed size."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _load(text: str) -> Any:
    try:
        library = importlib.import_module("tokenizers")
    except ImportError as exc:
        raise RequestError(
            f"Step 'tokenize' needs the package 'tokenizers' ({exc}). Install it with: pip install \"lightmill[text]\""
        ) from exc
    try:
        return library.Tokenizer.from_str(text)
    except Exception as exc:  # the library raises Exception itself for what it cannot read
        raise RequestError(f"Step 'tokenize': the file is no tokenizer of the `tokenizers` library: {exc}.") from exc
