r"""How people search versions: a line of terms that must all hold.

    query      = { term }
    term       = text | name:text | tag:key | tag:key=value | stage:word | alias:word
               | dataset:name | dataset:name@number | metrics.name op number | created op time
    op         = ">=" | "<=" | ">" | "<" | "=" | "!="
    value      = characters other than space and quote | '"' { character | '\"' | '\\' } '"'
    time       = 2026-01-31 | 2026-01-31T12:00:00Z

A bare text is a part of the asset's name. A day stands for the whole of it, in UTC. Two conditions on one thing
narrow it: `created>=2026-01-01 created<2026-02-01`. Spaces may stand around an operator.
"""

from __future__ import annotations

import base64
import json
import math
import re
from datetime import UTC, datetime
from typing import Literal

from lightmill.errors import RequestError
from lightmill.records.annotations import METRIC_PATTERN, TAG_PATTERN, Stage
from lightmill.records.assets import VersionSummary
from lightmill.records.base import Record
from lightmill.records.references import ALIAS_PATTERN, NAME_PATTERN

Op = Literal[">=", "<=", ">", "<", "=", "!="]
QUERY_MAX = 4096
PAGE_MAX = 1000
"""The most assets or versions in one answer."""

ROWS_MAX = 10_000
"""The most rows of a dataset in one answer."""


_PART_OF_NAME = re.compile(r"[a-z0-9._-]{1,64}")
_WORD = r'"(?:[^"\\]|\\["\\])*"|[^\s"]+'
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_OP = r"\s*(?P<op>>=|<=|!=|>|<|=)\s*"
_METRIC = re.compile(rf"metrics\.(?P<name>[A-Za-z0-9_./-]+){_OP}(?P<value>{_NUMBER})(?=\s|$)")
_CREATED = re.compile(rf"created{_OP}(?P<value>\S+)")
_TAG = re.compile(rf"tag:(?P<key>[^\s=\"]+)(?:=(?P<value>{_WORD}))?(?=\s|$)")
_FIELD = re.compile(rf"(?P<field>name|stage|alias|dataset):(?P<value>{_WORD})(?=\s|$)")
_BARE = re.compile(r"(?P<value>[^\s:=<>!\"]+)(?=\s|$)")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class Comparison(Record):
    """A condition on a metric."""

    metric: str
    op: Op
    value: float

    def holds(self, metrics: dict[str, float]) -> bool:
        """Whether the metric is there and fulfils the condition."""
        if self.metric not in metrics:
            return False
        found = metrics[self.metric]
        return {
            ">=": found >= self.value,
            "<=": found <= self.value,
            ">": found > self.value,
            "<": found < self.value,
            "=": found == self.value,
            "!=": found != self.value,
        }[self.op]

    def __str__(self) -> str:
        return f"{self.metric}{self.op}{self.value!r}"


class TagTerm(Record):
    """A tag that must be there; with a value, with this one."""

    key: str
    value: str | None = None


class TimeTerm(Record):
    """A condition on the time of publication, as records write times."""

    op: Literal[">=", "<=", ">", "<"]
    value: str


class DatasetTerm(Record):
    """The dataset a version was made from; without a number, any version of it."""

    name: str
    seq: int | None = None


class SearchQuery(Record):
    """What must hold of a version; an empty query holds of all."""

    names: tuple[str, ...] = ()
    tags: tuple[TagTerm, ...] = ()
    stages: tuple[Stage, ...] = ()
    aliases: tuple[str, ...] = ()
    datasets: tuple[DatasetTerm, ...] = ()
    metrics: tuple[Comparison, ...] = ()
    created: tuple[TimeTerm, ...] = ()

    def __str__(self) -> str:
        terms = [f"name:{name}" for name in self.names]
        terms += [f"tag:{t.key}" + ("" if t.value is None else f"={_quoted(t.value)}") for t in self.tags]
        terms += [f"stage:{stage}" for stage in self.stages] + [f"alias:{alias}" for alias in self.aliases]
        terms += [f"dataset:{d.name}" + ("" if d.seq is None else f"@{d.seq}") for d in self.datasets]
        terms += [f"metrics.{c}" for c in self.metrics] + [f"created{t.op}{t.value}" for t in self.created]
        return " ".join(terms)


class SearchOrder(Record):
    """By what a page is sorted: `created`, `name`, `size` or `metrics.<name>`."""

    key: str = "created"
    descending: bool = True

    @property
    def metric(self) -> str | None:
        """The metric, when it is sorted by one; versions without it are left out."""
        return self.key.removeprefix("metrics.") if self.key.startswith("metrics.") else None


class SearchPage(Record):
    """Versions that fulfil a query; `next` begins the page after this one, None on the last."""

    versions: tuple[VersionSummary, ...]
    next: str | None = None


class Cursor(Record):
    """Where a page ended: the value that it is sorted by, and the version."""

    value: str | float | int
    mid: str
    seq: int

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(json.dumps([self.value, self.mid, self.seq]).encode()).decode().rstrip("=")


def parse_query(text: str) -> SearchQuery:
    """Read a query.

    Raises:
        RequestError: A term is malformed; the message quotes it.
    """
    if len(text) > QUERY_MAX:
        raise RequestError(f"A query has at most {QUERY_MAX} characters; this one has {len(text)}.")
    found: dict[str, list[object]] = {name: [] for name in SearchQuery.model_fields}
    at = _skip(text, 0)
    while at < len(text):
        field, term, end = _term(text, at)
        found[field].append(term)
        at = _skip(text, end)
    return SearchQuery.model_validate({name: tuple(terms) for name, terms in found.items()})


def parse_comparison(text: str) -> Comparison:
    """Read a condition on a metric, such as `test_accuracy>=0.9`.

    Raises:
        RequestError: It is none.
    """
    query = f"metrics.{text.strip().removeprefix('metrics.')}"
    match = _METRIC.fullmatch(query)
    if match is None:
        raise RequestError(f"{text!r} is no condition on a metric; write one such as 'test_accuracy>=0.9'.")
    return _comparison(match, query)


def parse_comparisons(text: str) -> tuple[Comparison, ...]:
    """Read conditions on metrics with commas between them; none when the text is empty. Errors as above."""
    return tuple(parse_comparison(part) for part in text.split(",") if part.strip())


def parse_order(text: str) -> SearchOrder:
    """Read what to sort by; a dash in front turns it round.

    Raises:
        RequestError: Versions cannot be sorted by it.
    """
    order = SearchOrder(key=text.removeprefix("-"), descending=text.startswith("-"))
    if order.key not in ("created", "name", "size") and not (order.metric and METRIC_PATTERN.fullmatch(order.metric)):
        raise RequestError(f"Versions cannot be sorted by {text!r}; use created, name, size or metrics.<name>.")
    return order


def parse_cursor(text: str) -> Cursor:
    """Read what `SearchPage.next` gave.

    Raises:
        RequestError: It is something else.
    """
    try:
        value, mid, seq = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return Cursor(value=value, mid=mid, seq=seq)
    except (ValueError, TypeError) as exc:
        raise RequestError(f"{text!r} begins no page; pass on what the page before gave as `next`.") from exc


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _term(text: str, at: int) -> tuple[str, object, int]:
    if match := _METRIC.match(text, at):
        return "metrics", _comparison(match, text[at:]), match.end()
    if match := _CREATED.match(text, at):
        return "created", _time(match), match.end()
    if match := _TAG.match(text, at):
        return "tags", _tag(match), match.end()
    if match := _FIELD.match(text, at):
        field, term = _field(match)
        return field, term, match.end()
    match = _BARE.match(text, at)
    if match and not match[0].startswith("metrics."):
        return "names", _name(match["value"], match[0]), match.end()
    raise _wrong(text[at:].split()[0])


def _comparison(match: re.Match[str], text: str) -> Comparison:
    value = float(match["value"])
    if not METRIC_PATTERN.fullmatch(match["name"]) or not math.isfinite(value):
        raise _wrong(text.split()[0])
    return Comparison(metric=match["name"], op=match["op"], value=value)  # pyright: ignore[reportArgumentType]


def _time(match: re.Match[str]) -> TimeTerm:
    text, op = match["value"], match["op"]
    try:
        when = datetime.fromisoformat(text)
    except ValueError as exc:
        raise _wrong(match[0]) from exc
    if op not in (">=", "<=", ">", "<"):
        raise RequestError(f"{match[0]!r}: times are compared with >=, <=, > and <.")
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    if _DAY.fullmatch(text) and op in ("<=", ">"):
        when = when.replace(hour=23, minute=59, second=59, microsecond=999_000)
    try:
        shown = when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError as exc:
        raise _wrong(match[0]) from exc
    return TimeTerm(op=op, value=shown)


def _tag(match: re.Match[str]) -> TagTerm:
    if not TAG_PATTERN.fullmatch(match["key"]):
        raise _wrong(match[0])
    return TagTerm(key=match["key"], value=None if match["value"] is None else _unquoted(match["value"]))


def _field(match: re.Match[str]) -> tuple[str, object]:
    value = _unquoted(match["value"])
    match match["field"]:
        case "name":
            return "names", _name(value, match[0])
        case "stage":
            if value not in set(Stage):
                raise RequestError(f"{match[0]!r}: there is no stage {value!r}; the stages are {', '.join(Stage)}.")
            return "stages", Stage(value)
        case "alias":
            return "aliases", _alias(value, match[0])
    name, at, seq = value.partition("@")
    number = seq.isascii() and seq.isdigit() and 0 < len(seq) <= 10 and int(seq) > 0
    if not NAME_PATTERN.fullmatch(name) or (at and not number):
        raise _wrong(match[0])
    return "datasets", DatasetTerm(name=name, seq=int(seq) if at else None)


def _name(text: str, term: str) -> str:
    if not _PART_OF_NAME.fullmatch(text):
        raise _wrong(term)
    return text


def _alias(text: str, term: str) -> str:
    if not ALIAS_PATTERN.fullmatch(text):
        raise _wrong(term)
    return text


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return value if re.fullmatch(r'[^\s"\\]+', value) else f'"{escaped}"'


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _wrong(term: str) -> RequestError:
    return RequestError(
        f"{term!r} is no search term. Write a part of a name, tag:key=value, stage:production, alias:champion, "
        "dataset:name@1, metrics.test_accuracy>=0.9 or created>=2026-01-31."
    )
