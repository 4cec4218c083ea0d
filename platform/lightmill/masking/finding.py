"""What detectors find inside the values of a column, replaced: hints by Arrow first, then one look per distinct value.

Arrow's RE2 tells for all distinct values at once which detectors can find something there. What remains is a Python
loop over the distinct values with a hint, since overlaps and check digits are beyond regular expressions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from lightmill.masking.detector import Detector
from lightmill.masking.distinct import Distinct
from lightmill.masking.keys import MaskingKey
from lightmill.masking.planning import ColumnPlan
from lightmill.masking.replacing import replacer
from lightmill.masking.scanning import Scanner

pc: Any = compute  # pyarrow makes its functions at import, where type checkers do not see them

_UNSURE = r"[\\\x{A0}\x{660}-\x{10FFFF}]"
"""Texts that hints cannot judge: with backslashes, or with characters that stand for ASCII ones."""


class Finder:
    """Masks what the detectors of one plan find in texts, arrays of text and arrays of whole numbers."""

    def __init__(self, plan: ColumnPlan, key: MaskingKey | None) -> None:
        self._plan = plan
        self._detectors = tuple(detector for detector, _ in plan.finding)
        self._actions = {detector.name: rule.action for detector, rule in plan.finding}
        self._texts = Scanner(self._detectors, bare=plan.bare)
        self._numbers = Scanner(tuple(detector for detector, _ in plan.numeric), bare=plan.bare)
        self._replacers: dict[str, Callable[[str], str]] = {
            detector.name: replacer(rule, detector.name, detector.normal, key) for detector, rule in plan.finding
        }

    def text(self, text: str) -> str:
        """Return a text with every find replaced."""
        return self._texts.mask(text, self._plan.said, self._replace(Counter()))

    def array(self, array: pa.Array, counts: Counter[tuple[str, str | None, str]]) -> pa.Array:
        """Return an array of text with every find replaced; rows with each find are added to `counts`."""
        distinct = Distinct.of(array)
        values = distinct.values
        hit, active = self._hinted(values.cast(pa.large_string()))
        if not hit.any():
            return array
        rows = distinct.rows_of()
        masked: list[str] = []
        for place, text in zip(np.flatnonzero(hit), values.filter(pa.array(hit)).to_pylist(), strict=True):
            found: Counter[tuple[str, str | None, str]] = Counter()
            masked.append(self._texts.mask(text, self._plan.said, self._replace(found), active[place]))
            for what, count in found.items():
                counts[what] += count * int(rows[place])
        replaced = pc.replace_with_mask(values, pa.array(hit), pa.array(masked, values.type))
        return distinct.rebuild(replaced)

    def numbers(self, array: pa.Array, counts: Counter[tuple[str, str | None, str]]) -> pa.Array:
        """Return an array of whole numbers with null for every find, whatever the action; its type stays."""
        distinct = Distinct.of(array)
        texts = distinct.values.cast(pa.large_string())
        hit, active = self._hinted(texts)
        rows = distinct.rows_of()
        found = np.zeros(len(texts), dtype=bool)
        for place, text in zip(np.flatnonzero(hit), texts.filter(pa.array(hit)).to_pylist(), strict=True):
            for find in self._numbers.find(text, self._plan.said, active[place]):
                counts[self._plan.path, find.detector.name, "null"] += int(rows[place])
                found[place] = True
        if not found.any():
            return array
        return distinct.rebuild(pc.if_else(pa.array(found), pa.scalar(None, array.type), distinct.values))

    def _replace(self, found: Counter[tuple[str, str | None, str]]) -> Callable[[Detector, str], str]:
        def replace(detector: Detector, text: str) -> str:
            found[self._plan.path, detector.name, self._actions[detector.name]] += 1
            return self._replacers[detector.name](text)

        return replace

    def _hinted(self, texts: pa.Array) -> tuple[npt.NDArray[np.bool_], list[frozenset[str] | None]]:
        """Return which texts may hold a find, and for each the detectors that may find it; None is all of them."""
        bits = np.zeros(len(texts), dtype=np.int64)
        for hint in dict.fromkeys(detector.hint for detector in self._detectors):
            mask = sum(1 << place for place, detector in enumerate(self._detectors) if detector.hint == hint)
            bits |= np.where(_matches(texts, hint), mask, 0)
        for place, detector in enumerate(self._detectors):
            if detector.by_name and detector.context and detector.context.search(self._plan.said):
                bits |= 1 << place
        bits[_matches(texts, _UNSURE)] = -1
        names = {-1: None} | {
            value: frozenset(detector.name for place, detector in enumerate(self._detectors) if value >> place & 1)
            for value in np.unique(bits).tolist()
            if value != -1
        }
        return bits != 0, [names[value] for value in bits.tolist()]


def _matches(texts: pa.Array, pattern: str) -> npt.NDArray[np.bool_]:
    return pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False).astype(bool)
