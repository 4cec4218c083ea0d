"""What a detector is: it finds spans of a text that identify somebody, and knows one spelling for all of them.

Every pattern here is bounded, so that a text of n characters takes time in proportion to n. The text that a
detector sees has been through `plain`: dashes, spaces and digits of other scripts are ASCII, one for one.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

CONTEXT_BEFORE, CONTEXT_AFTER = 48, 16
"""How many characters before and after an identifier a word may stand in that says what it is."""

_WORD_CHARS = 32

START = r"(?:(?<![0-9A-Za-z])|(?<=\\[nrtbf])|(?<=[A-Za-z]{3}))"
"""Where an identifier begins: after no letter and no digit, after an escaped line end, or glued to a word."""

END = r"(?![0-9A-Za-z])"
_SEPARATORS = re.compile(r"[^0-9A-Za-z]")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_DIGITS = {
    code: str(unicodedata.decimal(chr(code)))
    for code in range(0x660, 0x20000)
    if unicodedata.category(chr(code)) == "Nd"
}
_DASHES = dict.fromkeys([*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63], "-")
_SPACES = dict.fromkeys([0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], " ")
_FULL_WIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_PLAIN = {**_FULL_WIDTH, **_DIGITS, **_DASHES, **_SPACES}


class Span(NamedTuple):
    """A find: text[start:stop]. `weak` where only a word near can tell it from any other number."""

    start: int
    stop: int
    weak: bool


def plain(text: str) -> str:
    """Return the text with ASCII dashes, spaces, digits and full-width letters; its length stays."""
    return text if text.isascii() else text.translate(_PLAIN)


def compact(text: str) -> str:
    """Return the letters and digits alone, in upper case: one spelling for all."""
    return _SEPARATORS.sub("", plain(text)).upper()


def words(*said: str) -> re.Pattern[str]:
    """Return a pattern of context words; each stands alone or is part of a name such as `phoneNumber`."""
    return re.compile(rf"(?<![a-z])(?:{'|'.join(said)})(?![a-z])", re.IGNORECASE)


def spoken(name: str) -> str:
    """Return a column's or a key's name as words: `phoneNumber` as `phone Number`."""
    return _CAMEL.sub(" ", name.replace("_", " "))


class Detector(ABC):
    """Finds one kind of identifier.

    Attributes:
        name: What policies, placeholders and reports call it.
        hint: A pattern for RE2 that every text with a find matches; it is cheap and may match others.
        context: Words near a find that say what it is, or None where no find is weak.
        numeric: Whether a find may be a plain number, so that UUIDs, times and decimal fractions are kept from it.
        by_name: Whether the name of a column or key can make a text a find that does not match the hint.
    """

    name: str
    hint: str
    context: re.Pattern[str] | None
    numeric: bool
    by_name: bool = False

    @abstractmethod
    def find(self, text: str, said: str) -> Iterator[Span]:
        """Yield finds, which may overlap. `said` is the name of the column and of the JSON key, as words."""

    @abstractmethod
    def normal(self, found: str) -> str:
        """Return the one spelling that stands for all spellings of what was found."""

    def is_said(self, text: str, span: Span, said: str) -> bool:
        """Return whether a context word stands near a find, or in the name of the column or key."""
        if self.context is None:
            return False
        before = spoken(text[_word_start(text, span.start - CONTEXT_BEFORE) : span.start])
        after = spoken(text[span.stop : _word_stop(text, span.stop + CONTEXT_AFTER)])
        return any(self.context.search(place) for place in (said, before, after))


def _word_start(text: str, place: int) -> int:
    """Return where the word begins that `place` is in the middle of, so that no part of a word is taken for one."""
    place = least = max(0, place)
    while place > max(0, least - _WORD_CHARS) and text[place - 1].isalpha():
        place -= 1
    return place


def _word_stop(text: str, place: int) -> int:
    """Return where the word ends that `place` is in the middle of."""
    most = min(len(text), place + _WORD_CHARS)
    while place < most and text[place].isalpha():
        place += 1
    return place


def _always(_: str) -> bool:
    return True


def _never(_: str) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class PatternDetector(Detector):
    """A detector by patterns and a check of what they matched; a pattern's group, if any, is the find."""

    name: str
    hint: str
    patterns: tuple[re.Pattern[str], ...]
    check: Callable[[str], bool] = _always
    weak: Callable[[str], bool] = _never
    normal_of: Callable[[str], str] = compact
    context: re.Pattern[str] | None = None
    numeric: bool = False

    def find(self, text: str, said: str) -> Iterator[Span]:
        """Yield every match that passes the check; after one that does not, search on from its next character."""
        for pattern in self.patterns:
            group = 1 if pattern.groups else 0
            place = 0
            while match := pattern.search(text, place):
                found = match[group]
                if self.check(found):
                    yield Span(*match.span(group), self.weak(found))
                    place = max(match.end(), place + 1)
                else:
                    place = match.start() + 1

    def normal(self, found: str) -> str:
        """Return the one spelling that stands for all spellings of what was found."""
        return self.normal_of(found)
