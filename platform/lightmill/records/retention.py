"""Retention: which versions of an asset stay, which may go, and why. Nothing here deletes."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from lightmill.records.base import Record
from lightmill.records.references import AssetKind, VersionId


class RetentionPolicy(Record):
    """What keeps a version; one that nothing keeps may go.

    The newest version stays always, and so does what an alias points at or an endpoint serves. Besides, the
    `keep_last` newest stay, those younger than `keep_days`, with `keep_tagged` those with a tag or a stage, and, unless
    `even_if_used`, those that other versions were made from or evaluated on.
    """

    keep_last: int | None = Field(default=None, ge=1)
    keep_days: float | None = Field(default=None, ge=0)
    keep_tagged: bool = False
    even_if_used: bool = False

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.keep_last is None and self.keep_days is None:
            raise ValueError(
                "give keep_last, keep_days or both; a policy without them would keep the newest version only"
            )
        return self

    def __str__(self) -> str:
        parts = [
            f"keep the last {self.keep_last}" if self.keep_last else "",
            f"keep {self.keep_days:g} days" if self.keep_days is not None else "",
            "keep what has tags" if self.keep_tagged else "",
            "even if used" if self.even_if_used else "",
        ]
        return ", ".join(part for part in parts if part)


class RetentionDecision(Record):
    """What happens to one version and why: `keep` with what keeps it, or not, with the rules that it has outlived."""

    version: VersionId
    created: str
    size_bytes: int
    keep: bool
    why: tuple[str, ...]


class RetentionPlan(Record):
    """What a policy says of the versions of one asset at a time, newest first.

    `applied` says whether versions were deleted: those in `deleted`. `refused` maps a version that should have gone to
    the reason why it did not.
    """

    kind: AssetKind
    name: str
    policy: RetentionPolicy
    at: str
    decisions: tuple[RetentionDecision, ...]
    applied: bool = False
    deleted: tuple[str, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict)
