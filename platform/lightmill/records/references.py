"""How people and records name an asset: `digits`, `digits@3`, `digits@latest`, `digits@champion`."""

from __future__ import annotations

import re
from enum import StrEnum

from lightmill.errors import RequestError
from lightmill.records.base import Record

NAME_PATTERN = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
ALIAS_PATTERN = re.compile(r"[a-z]([a-z0-9_-]{0,30}[a-z0-9])?")
LATEST = "latest"


class AssetKind(StrEnum):
    """The three kinds of versioned asset."""

    DATASET = "dataset"
    MODEL = "model"
    RUN = "run"


class Reference(Record):
    """An asset's name with what selects its version: a number, an alias, or `latest`."""

    name: str
    selector: str = LATEST

    @property
    def seq(self) -> int | None:
        """The version number, when the selector is one."""
        return int(self.selector) if _is_number(self.selector) else None

    @property
    def alias(self) -> str | None:
        """The alias, when the selector is one that can be moved."""
        return None if _is_number(self.selector) or self.selector == LATEST else self.selector

    def __str__(self) -> str:
        return f"{self.name}@{self.selector}"


class VersionId(Record):
    """One immutable version: who it is and the digest that pins it.

    `digest` is the SHA-256 of its signed commit record, in hex.
    """

    kind: AssetKind
    name: str
    seq: int
    digest: str

    def __str__(self) -> str:
        return f"{self.name}@{self.seq}"


def check_name(name: str, what: str) -> str:
    """Return `name` if it can name an asset, endpoint or workspace.

    Raises:
        RequestError: The name has other characters than a-z, 0-9, dot, dash and underscore, is longer than
            64, or does not begin and end with a letter or digit.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise RequestError(
            f"{what} {name!r} is not a valid name: use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning and "
            "ending with a letter or digit."
        )
    return name


def check_alias(alias: str) -> str:
    """Return `alias` if it can name one.

    Raises:
        RequestError: It has other characters than a-z, 0-9, dash and underscore, does not begin with a letter,
            is longer than 32, or is `latest`, which always selects the newest version.
    """
    if not ALIAS_PATTERN.fullmatch(alias) or alias == LATEST:
        raise RequestError(
            f"{alias!r} cannot be an alias: use 1 to 32 of a-z, 0-9, '_' and '-', beginning with a letter, such as "
            f"'champion'; {LATEST!r} is taken."
        )
    return alias


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def parse_reference(text: str, default: str = LATEST) -> Reference:
    """Read `name` or `name@selector`.

    Raises:
        RequestError: The name or the selector is malformed.
    """
    name, at, selector = text.partition("@")
    check_name(name, "asset")
    selector = selector if at else default
    if not (_is_number(selector) and int(selector) > 0) and not ALIAS_PATTERN.fullmatch(selector):
        raise RequestError(
            f"{text!r} names no version: after '@' give a number from 1, an alias such as 'champion', or 'latest'."
        )
    return Reference(name=name, selector=selector)
