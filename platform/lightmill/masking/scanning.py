"""From a text to what was found in it: candidates of all detectors, weak ones told apart, overlaps resolved.

Detectors of numbers do not see UUIDs, times and decimal fractions.

Overlapping finds become one that covers them all, so nothing that was found stays: the longest names it; of
equally long ones one whose context word is near, then the first in the registry's order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from lightmill.masking.detector import Detector, plain
from lightmill.masking.json_text import rewrite_strings

_NO_IDENTIFIER = re.compile(
    r"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![0-9A-Za-z])"  # UUID (RFC 9562)
    r"|(?<![\w.])\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?(?![\w-])"  # RFC 3339
    r"|(?<![\w.])[+-]?(?:0|[1-9]\d{0,17})\.\d{1,32}(?:[eE][+-]?\d{1,3})?(?![\w.])"  # decimal fraction
)


class Find(NamedTuple):
    """text[start:stop] was found by `detector`."""

    start: int
    stop: int
    detector: Detector


Replace = Callable[[Detector, str], str]
"""From a detector and what it found to what stands in its place."""


class Scanner:
    """Finds what some detectors find, in free text and in the strings and numbers of JSON text.

    `bare` names detectors whose weak finds count without a context word.
    """

    def __init__(self, detectors: tuple[Detector, ...], *, bare: frozenset[str] = frozenset()) -> None:
        self._detectors = detectors
        self._bare = bare
        self._order = {detector.name: place for place, detector in enumerate(detectors)}

    def find(self, text: str, said: str, active: frozenset[str] | None = None) -> list[Find]:
        """Return the finds in a text, from left to right and without overlaps.

        `said` is the name of the column and the JSON key, as words. `active` are the detectors that can find
        something, as their hints tell; None means that all may.
        """
        seen = plain(text)
        candidates = list(self._candidates(seen, said, active))
        return list(_joined(candidates)) if candidates else []

    def mask(self, text: str, said: str, replace: Replace, active: frozenset[str] | None = None) -> str:
        """Return the text with every find replaced, also those in JSON strings, escaped or nested."""
        return rewrite_strings(text, said, lambda leaf, key: self._mask_free(leaf, key, replace, active))

    def _mask_free(self, text: str, said: str, replace: Replace, active: frozenset[str] | None) -> str:
        pieces: list[str] = []
        end = 0
        for found in self.find(text, said, active):
            pieces += [text[end : found.start], replace(found.detector, text[found.start : found.stop])]
            end = found.stop
        return "".join([*pieces, text[end:]]) if pieces else text

    def _candidates(
        self, text: str, said: str, active: frozenset[str] | None
    ) -> Iterator[tuple[Find, tuple[int, bool, int]]]:
        """Yield finds that count with their rank, smaller is better: length, word near, order."""
        able = [detector for detector in self._detectors if active is None or detector.name in active]
        numbers = text
        if any(detector.numeric for detector in able):
            numbers = _NO_IDENTIFIER.sub(lambda match: "\0" * len(match[0]), text)
        for detector in able:
            for span in detector.find(numbers if detector.numeric else text, said):
                is_said = detector.is_said(text, span, said)
                if is_said or not span.weak or detector.name in self._bare:
                    rank = (span.start - span.stop, not is_said, self._order[detector.name])
                    yield Find(span.start, span.stop, detector), rank


def _joined(candidates: list[tuple[Find, tuple[int, bool, int]]]) -> Iterator[Find]:
    """Yield one find for each group of overlapping ones."""
    group: list[tuple[Find, tuple[int, bool, int]]] = []
    stop = -1
    for candidate in sorted(candidates, key=lambda candidate: (candidate[0].start, candidate[1])):
        if candidate[0].start >= stop and group:
            yield _whole(group)
            group = []
        group.append(candidate)
        stop = max(stop, candidate[0].stop)
    if group:
        yield _whole(group)


def _whole(group: list[tuple[Find, tuple[int, bool, int]]]) -> Find:
    best = min(group, key=lambda candidate: candidate[1])[0]
    return Find(min(found.start for found, _ in group), max(found.stop for found, _ in group), best.detector)
