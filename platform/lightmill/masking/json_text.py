"""Strings and numbers inside JSON text, rewritten in place: whatever is not rewritten keeps its every byte.

Text that is valid JSON is walked literal by literal, keys too, each with the two keys nearest above it; a number
that is rewritten becomes a string. Other text that holds backslashes is rewritten as free text, after its quoted
literals were, so that an escaped `@` in a log line is seen. A string that itself holds JSON is walked as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import orjson

from lightmill.masking.detector import spoken

MOST_LEVELS = 8
"""How many times JSON may lie in a string of JSON; below that it is free text."""

_STRING = r'"(?:[^"\\]|\\.)*+"'
_LITERAL = re.compile(
    rf"(?P<key>{_STRING})(?=\s*:)|(?P<string>{_STRING})|(?P<number>-?\d[\d.eE+-]*+)|(?P<open>[{{\[])|(?P<close>[}}\]])",
    re.DOTALL,
)
_QUOTED = re.compile(r'"(?=[^"\\]*\\)(?:[^"\\]|\\.)*+"', re.DOTALL)

KEYS_ABOVE = 2
"""How many keys above a value say what it is: `{"ssn": {"value": 1}}` has two."""

Rewrite = Callable[[str, str], str]
"""From a text and what names it (column and key, as words) to the text that stands in its place."""


def rewrite_strings(text: str, said: str, rewrite: Rewrite, level: int = 0) -> str:
    """Return the text with `rewrite` done to each string and number of JSON, or to the text where it is none."""
    if level >= MOST_LEVELS:
        return rewrite(text, said)
    if _is_json(text):
        return _Walk(said, rewrite, level).over(text)
    if "\\" in text and '"' in text:
        text = _QUOTED.sub(lambda match: _string(match[0], said, rewrite, level), text)
    return rewrite(text, said)


class _Walk:
    """Rewrites one document from left to right, and remembers the key of each level."""

    def __init__(self, said: str, rewrite: Rewrite, level: int) -> None:
        self._column = said
        self._keys = [""]
        self._rewrite = rewrite
        self._level = level

    def over(self, text: str) -> str:
        return _LITERAL.sub(self._literal, text)

    def _literal(self, match: re.Match[str]) -> str:
        literal = match[0]
        if match["open"]:
            self._keys.append("")
        elif match["close"]:
            self._keys.pop()
        elif match["key"]:
            self._keys[-1] = spoken(_decoded(literal) or "")
            return _string(literal, self._column, self._rewrite, self._level)
        elif match["string"]:
            return _string(literal, self._said(), self._rewrite, self._level)
        else:
            masked = self._rewrite(literal, self._said())
            return literal if masked == literal else json.dumps(masked)
        return literal

    def _said(self) -> str:
        return " ".join([self._column, *[key for key in self._keys if key][-KEYS_ABOVE:]])


def _string(literal: str, said: str, rewrite: Rewrite, level: int) -> str:
    value = _decoded(literal)
    if value is None:
        return literal
    masked = rewrite_strings(value, said, rewrite, level + 1)
    return literal if masked == value else json.dumps(masked, ensure_ascii="\\u" in literal)


def _decoded(literal: str) -> str | None:
    """Return what a string literal says, or None where its escapes are not those of JSON, as in some log lines."""
    try:
        return json.loads(literal, strict=False)
    except ValueError:
        return None


def _is_json(text: str) -> bool:
    if text.lstrip()[:1] not in ("{", "[", '"'):
        return False
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
