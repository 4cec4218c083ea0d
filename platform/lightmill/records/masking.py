"""Masking: the policy that says what is hidden and how, and the report that says what was done.

A policy is a list of rules; each says what it looks at and one action. A rule without `detectors` treats every
value of its columns; a rule with `detectors` treats what they find inside the values of its columns or, where it
names no column and no tag, of every text column. Neither record ever holds a value or a key.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from lightmill.errors import RequestError
from lightmill.records.base import Record
from lightmill.records.references import LATEST, Reference, check_name, parse_reference

PSEUDONYM_CHARS = 26
"""The usual length of a pseudonym: 26 characters of base32 are 130 bits."""

DateStep = Literal["month", "quarter", "year", "decade"]


class SelectionRule(Record):
    """What a rule looks at: columns by name or tag, what detectors find, or both.

    `columns` holds names, `person.mail` for a field of a struct, or `*` for every column. `bare` also takes
    spellings that are plain digits with a weak checksum or none where no word near says what they are.
    """

    finds: ClassVar[bool] = True
    """Whether the action can treat what detectors find inside a value."""

    columns: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ()
    bare: bool = False

    @model_validator(mode="after")
    def _selects(self) -> Self:
        if not (self.columns or self.tags or self.detectors):
            raise ValueError("the rule selects nothing; give it columns, tags or detectors")
        if self.detectors and not self.finds:
            raise ValueError("this action treats whole columns; take out detectors and name columns or tags")
        if self.bare and not self.detectors:
            raise ValueError("bare belongs to detectors; add detectors or take bare out")
        return self


class KeepRule(SelectionRule):
    """Leave as it is: an exception from the rules below it."""

    action: Literal["keep"]


class DropRule(SelectionRule):
    """Take the column out."""

    finds: ClassVar[bool] = False
    action: Literal["drop"]


class RedactRule(SelectionRule):
    """Put a typed placeholder such as [email] in place of the value; null where the column is no text."""

    action: Literal["redact"]


class PartialRule(SelectionRule):
    """Put `*` in place of letters and digits except the first and last few, and an e-mail address's domain.

    Never more than half of the letters and digits stay.
    """

    action: Literal["partial"]
    keep_first: int = Field(default=0, ge=0, le=16)
    keep_last: int = Field(default=4, ge=0, le=16)
    keep_domain: bool = True


class PseudonymRule(SelectionRule):
    """Put a keyed pseudonym in place of the value; equal values of one `domain` have equal pseudonyms.

    The domain is the detector's or the column's name unless it is given. `length` counts base32 characters of
    5 bits each.
    """

    action: Literal["pseudonym"]
    domain: str | None = Field(default=None, min_length=1, max_length=128)
    length: int = Field(default=PSEUDONYM_CHARS, ge=16, le=51)


class TokenRule(SelectionRule):
    """Put a keyed token of the same length, character classes and separators in place of the value.

    With `luhn` a value whose last digit is a Luhn check digit becomes a token of which that holds, too.
    """

    action: Literal["token"]
    domain: str | None = Field(default=None, min_length=1, max_length=128)
    luhn: bool = False


class GeneralizeRule(SelectionRule):
    """Say it less exactly, in one of five ways.

    `width`: a number becomes its range [k*width, (k+1)*width). `edges`: a number becomes the range between two
    rising edges. `date`: a date becomes its month, quarter, year or decade. `network`: an IPv4 address becomes
    its network of so many bits, an IPv6 address that of `ipv6_bits`, or of 48. `characters`: so many first characters
    stay and `*` stands for the rest, for postcodes. `lower_bound` gives a range of `width` as its lower end, a
    float64.
    """

    action: Literal["generalize"]
    width: float | None = Field(default=None, gt=0)
    edges: tuple[float, ...] | None = Field(default=None, min_length=1)
    date: DateStep | None = None
    network: int | None = Field(default=None, ge=1, le=31)
    ipv6_bits: int | None = Field(default=None, ge=1, le=127)
    characters: int | None = Field(default=None, ge=1)
    lower_bound: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = ("width", "edges", "date", "network", "characters")
        given = [way for way in ways if getattr(self, way) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(ways)}; found {given or 'none'}")
        if self.edges is not None and any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges {list(self.edges)} must rise")
        if self.detectors and given[0] not in ("network", "characters"):
            raise ValueError(f"{given[0]} treats whole columns; take out detectors and name columns or tags")
        if self.lower_bound and given[0] != "width":
            raise ValueError(f"lower_bound belongs to width, not to {given[0]}; take it out")
        if self.ipv6_bits is not None and given[0] != "network":
            raise ValueError(f"ipv6_bits belongs to network, not to {given[0]}; take it out")
        return self


class NoiseRule(SelectionRule):
    """Add Laplace noise: two values at most `sensitivity` apart are told apart by a factor e^epsilon at most.

    With `minimum` and `maximum` values are clipped to them before and after, and their distance is the
    sensitivity unless another is given.
    """

    finds: ClassVar[bool] = False
    action: Literal["noise"]
    epsilon: float = Field(gt=0, le=100)
    sensitivity: float | None = Field(default=None, gt=0)
    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if (self.minimum is None) != (self.maximum is None):
            raise ValueError("minimum and maximum belong together; give both or none")
        if self.minimum is not None and self.maximum is not None and self.minimum >= self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is not less than maximum {self.maximum:g}")
        if self.sensitivity is None and self.minimum is None:
            raise ValueError("give sensitivity, or minimum and maximum, whose distance it then is")
        return self

    def reach(self) -> float:
        """Return the sensitivity: the one that was given, else the distance of the bounds."""
        return self.sensitivity if self.sensitivity is not None else float(self.maximum or 0) - float(self.minimum or 0)


MaskingRule = KeepRule | DropRule | RedactRule | PartialRule | PseudonymRule | TokenRule | GeneralizeRule | NoiseRule
KEYED_ACTIONS = ("pseudonym", "token", "noise")
_RULES: dict[str, type[SelectionRule]] = {
    "keep": KeepRule,
    "drop": DropRule,
    "redact": RedactRule,
    "partial": PartialRule,
    "pseudonym": PseudonymRule,
    "token": TokenRule,
    "generalize": GeneralizeRule,
    "noise": NoiseRule,
}


class MaskingPolicy(Record):
    """What is hidden and how, by name and version; the first rule that fits decides."""

    name: str
    version: int = Field(default=1, ge=1)
    rules: tuple[Annotated[MaskingRule, Field(discriminator="action")], ...] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value, "masking policy")

    def keyed(self) -> bool:
        """Return whether an action of the policy needs a key."""
        return any(rule.action in KEYED_ACTIONS for rule in self.rules)


class SignedPolicy(Record):
    """A policy with the number that the platform gave it, as it is signed; `version` of the policy is that number."""

    format: Literal[1] = 1
    policy: MaskingPolicy
    created: str
    publisher: str


def parse_policy_reference(text: str) -> Reference:
    """Read `name@2`, or `name` and `name@latest` for the newest number.

    Raises:
        RequestError: The name is malformed, or what follows it is neither a number nor `latest`.
    """
    reference = parse_reference(text)
    if reference.seq is None and reference.selector != LATEST:
        raise RequestError(
            f"{text!r} names no masking policy: after '@' give its number, or 'latest'. `lightmill masking list` shows "
            "what there is."
        )
    return reference


def _named(text: str) -> str:
    if text:
        parse_policy_reference(text)
    return text


PolicyName = Annotated[str, AfterValidator(_named)]
"""A masking policy as `name` or `name@2`; empty for none."""


class MaskedCount(Record):
    """How many values of a column were treated. `detector` is None where every value of the column was."""

    column: str
    detector: str | None
    action: str
    values: int = Field(ge=0)


class MaskingReport(Record):
    """What a policy did to rows; reports of blocks add up, in any order.

    `epsilon` is what each column's noise spends for one row. A person with one row spends the sum over the
    columns, one with k rows k times that, however many rows there are.
    """

    policy: str
    version: int
    fingerprint: str
    rows: int = Field(ge=0)
    counts: tuple[MaskedCount, ...]
    epsilon: dict[str, float] = Field(default_factory=dict)

    def __add__(self, other: MaskingReport) -> MaskingReport:
        """Return the report of both blocks.

        Raises:
            RequestError: The reports are of different policies, keys or tags.
        """
        if self.fingerprint != other.fingerprint:
            raise RequestError(
                f"The reports are of different masking: {self.policy} version {self.version} ({self.fingerprint[:12]}) "
                f"and {other.policy} version {other.version} ({other.fingerprint[:12]}); mask all blocks by one policy "
                "and key."
            )
        total: Counter[tuple[str, str | None, str]] = Counter()
        for count in (*self.counts, *other.counts):
            total[count.column, count.detector, count.action] += count.values
        return self.model_copy(
            update={
                "rows": self.rows + other.rows,
                "counts": masked_counts(total),
                "epsilon": dict(sorted({**self.epsilon, **other.epsilon}.items())),
            }
        )

    def epsilon_per_row(self) -> float:
        """Return what all noise together spends for one row: sequential composition over the columns."""
        return sum(self.epsilon.values())


def masked_counts(total: Counter[tuple[str, str | None, str]]) -> tuple[MaskedCount, ...]:
    """Return counts by (column, detector, action) as sorted records."""
    return tuple(
        MaskedCount(column=column, detector=detector, action=action, values=values)
        for (column, detector, action), values in sorted(total.items(), key=lambda item: tuple(map(str, item[0])))
    )


def parse_masking_policy(value: Any, where: str) -> MaskingPolicy:
    """Return the policy that `value` holds, as read from YAML or JSON; `where` names it in errors.

    Raises:
        RequestError: A key is unknown or missing, or a value has the wrong type or range.
    """
    if not isinstance(value, dict):
        raise RequestError(f"{where} must hold keys and values, but holds {type(value).__name__}.")
    try:
        return MaskingPolicy.model_validate(value)
    except ValidationError as exc:
        problems = "; ".join(_problem(dict(problem)) for problem in exc.errors()[:3])
        raise RequestError(f"{where} is not a valid masking policy: {problems}.") from exc


def _problem(problem: dict[str, Any]) -> str:
    """Describe one problem: which key, which value, what to do."""
    place = [str(part) for part in problem["loc"]]
    kind = next((_RULES[part] for part in place[2:3] if part in _RULES), None)
    key = ".".join(place[:2] + place[3:] if kind else place)
    if problem["type"] == "extra_forbidden":
        known = sorted((kind or MaskingPolicy).model_fields)
        return f"unknown key {key!r} (known keys: {', '.join(known)})"
    if problem["type"] == "missing":
        return f"key {key!r} is missing"
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        given = problem["input"].get("action") if isinstance(problem["input"], dict) else problem["input"]
        return f"{key}.action: {given!r} is no action (use one of: {', '.join(_RULES)})"
    given = repr(problem["input"])
    shown = given if len(given) <= 80 else given[:77] + "..."
    return f"{key}: {problem['msg'].removeprefix('Value error, ')} (given {shown})"
