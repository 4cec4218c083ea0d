"""Normalize text with Arrow's kernels; regular expressions run in RE2, in time linear in the text."""

from __future__ import annotations

import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.columns import texts, with_column
from lightmill.models.preparation.kernels import pc
from lightmill.records.preparation import Replacement, TextNormalize

TEXT_BYTES_MAX = 1 << 30
_MARKS = r"\p{Mn}+"
_SPACES = r"[\s\p{Z}\x0b\x1c-\x1f\x{85}]+"


class Normalizer:
    """A `text_normalize` step made ready to apply."""

    def __init__(self, step: TextNormalize) -> None:
        """Check the patterns.

        Raises:
            RequestError: A pattern or replacement is not in RE2 syntax.
        """
        self._step = step
        for rule in step.replace:
            try:
                pc.replace_substring_regex(pa.array(["a"]), pattern=rule.pattern, replacement=rule.replacement)
            except pa.ArrowInvalid as exc:
                raise RequestError(
                    f"Step 'text_normalize': pattern {rule.pattern!r} with replacement {rule.replacement!r} is "
                    f"refused: {exc}. Patterns are in RE2 syntax, without look-around and back-references."
                ) from exc

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the text normalized, as large_string.

        Raises:
            RequestError: A column is missing or holds no text, or replacements grow a block beyond 1 GiB.
        """
        for name in self._step.columns:
            table = with_column(table, name, self._normalize(texts(table, name, self._step.step), name))
        return table

    def _normalize(self, text: pa.Array, name: str) -> pa.Array:
        step = self._step
        if step.unicode:
            text = pc.utf8_normalize(text, form=step.unicode)
        if step.lower:
            text = pc.utf8_lower(text)
        if step.strip_accents:
            text = pc.replace_substring_regex(pc.utf8_normalize(text, form="NFD"), pattern=_MARKS, replacement="")
            text = pc.utf8_normalize(text, form=step.unicode or "NFC")
        for rule in step.replace:
            _check_growth(text, rule, name)
            text = pc.replace_substring_regex(text, pattern=rule.pattern, replacement=rule.replacement)
        if step.whitespace:
            text = pc.utf8_trim(pc.replace_substring_regex(text, pattern=_SPACES, replacement=" "), characters=" ")
        return text


def _check_growth(text: pa.Array, rule: Replacement, name: str) -> None:
    """Refuse a replacement before it fills the memory; matches are counted only where they could matter."""
    added = len(rule.replacement.encode())
    groups = rule.replacement.count("\\")
    if text.nbytes * (1 + added + groups) + len(text) * added <= TEXT_BYTES_MAX:
        return
    matches = pc.sum(pc.count_substring_regex(text, pattern=rule.pattern)).as_py() or 0
    most = text.nbytes * (1 + groups) + matches * added
    if most > TEXT_BYTES_MAX:
        raise RequestError(
            f"Step 'text_normalize': replacing {rule.pattern!r} in column {name!r} may make {most:,} bytes of text in "
            f"one block; the limit is {TEXT_BYTES_MAX:,}. Shorten the replacement, or read smaller blocks."
        )
