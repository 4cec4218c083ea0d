"""What is said of a version after it was published: tags, stage, evaluations, and the text of its card.

A version never changes; what is said of it is a log. `Notes` is the sum of that log, `Notes.after` adds one entry.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, field_validator

from lightmill.errors import RequestError
from lightmill.records.base import Record
from lightmill.records.references import VersionId

TAG_PATTERN = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
METRIC_PATTERN = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_./-]{0,126}[A-Za-z0-9_])?")
TAG_VALUE_MAX = 256
TEXT_MAX = 65_536


class Stage(StrEnum):
    """How far a version has come."""

    NONE = "none"
    STAGING = "staging"
    PRODUCTION = "production"
    ARCHIVED = "archived"


class Evaluation(Record):
    """Measured quality of a model version on rows of a dataset version.

    `by` names who measured: a run, a job or a person.
    """

    dataset: VersionId
    split: Literal["train", "validation", "test"]
    metrics: dict[str, float] = Field(min_length=1)
    created: str
    by: str = Field(min_length=1, max_length=200)

    @field_validator("metrics")
    @classmethod
    def _named(cls, value: dict[str, float]) -> dict[str, float]:
        wrong = next((name for name in value if not METRIC_PATTERN.fullmatch(name)), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} cannot name a metric; use letters, digits and '_./-'")
        return value


class CardText(Record):
    """What people say of a version, in Markdown."""

    description: str = Field(default="", max_length=TEXT_MAX)
    intended_use: str = Field(default="", max_length=TEXT_MAX)
    limitations: str = Field(default="", max_length=TEXT_MAX)


class TagsChanged(Record):
    """Tags that were set, and names of tags that were removed."""

    kind: Literal["tags"] = "tags"
    set: dict[str, str] = Field(default_factory=dict)
    unset: tuple[str, ...] = ()


class StageChanged(Record):
    """A promotion: the stage, what was required of it, and the evaluation that showed it."""

    kind: Literal["stage"] = "stage"
    stage: Stage
    required: tuple[str, ...] = ()
    evidence: Evaluation | None = None


class TextChanged(Record):
    """New text of the card; None leaves a part as it is."""

    kind: Literal["text"] = "text"
    description: str | None = Field(default=None, max_length=TEXT_MAX)
    intended_use: str | None = Field(default=None, max_length=TEXT_MAX)
    limitations: str | None = Field(default=None, max_length=TEXT_MAX)


class Evaluated(Record):
    """An evaluation that was added."""

    kind: Literal["evaluation"] = "evaluation"
    evaluation: Evaluation


Change = TagsChanged | StageChanged | TextChanged | Evaluated
CHANGE: TypeAdapter[Change] = TypeAdapter(Annotated[Change, Field(discriminator="kind")])


class Notes(Record):
    """All that is said of a version now."""

    stage: Stage = Stage.NONE
    tags: dict[str, str] = Field(default_factory=dict)
    text: CardText = CardText()
    evaluations: tuple[Evaluation, ...] = ()

    def after(self, change: Change) -> Notes:
        """Return the notes with one more change."""
        match change:
            case TagsChanged():
                kept = {name: value for name, value in self.tags.items() if name not in change.unset}
                return self.model_copy(update={"tags": dict(sorted((kept | change.set).items()))})
            case StageChanged():
                return self.model_copy(update={"stage": change.stage})
            case TextChanged():
                said = change.model_dump(exclude={"kind"}, exclude_none=True)
                return self.model_copy(update={"text": self.text.model_copy(update=said)})
            case Evaluated():
                return self.model_copy(update={"evaluations": (*self.evaluations, change.evaluation)})


class Annotation(Record):
    """One signed entry of an asset's annotation log; its `n` counts over all versions of the asset.

    `parent` is the SHA-256 of entry n - 1, `record` the digest of the commit record of version `seq`. What is
    said lies in `sealed`: base64 of a blob under the version's key.
    """

    format: Literal[1] = 1
    store: str
    workspace: str
    mid: str
    n: int
    parent: str | None
    seq: int
    record: str
    sealed: str = Field(repr=False)
    created: str
    publisher: str
    nonce: str


def check_change(change: Change) -> None:
    """Check what pydantic does not.

    Raises:
        RequestError: A tag has a malformed name or value, or nothing is said at all.
    """
    if isinstance(change, TagsChanged):
        _check_tags(change)
    if isinstance(change, TextChanged) and not change.model_dump(exclude={"kind"}, exclude_none=True):
        raise RequestError("Nothing was said; give a description, an intended use or limitations.")


def _check_tags(change: TagsChanged) -> None:
    if not change.set and not change.unset:
        raise RequestError("No tag was given; write key=value to set one, or name one to remove.")
    for name in (*change.set, *change.unset):
        if not TAG_PATTERN.fullmatch(name):
            raise RequestError(
                f"{name!r} cannot name a tag: use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning and ending with a "
                "letter or digit."
            )
    for name, value in change.set.items():
        if not value or len(value) > TAG_VALUE_MAX or not value.isprintable():
            raise RequestError(f"Tag {name!r} needs a value of 1 to {TAG_VALUE_MAX} printable characters.")
    both = set(change.set) & set(change.unset)
    if both:
        raise RequestError(f"Tag {min(both)!r} cannot be set and removed at once.")
