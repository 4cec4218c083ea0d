"""The card of a dataset version, in the style of Hugging Face: YAML in front, then one page of Markdown.

Its parts follow Gebru and others, Datasheets for Datasets (2021), as far as the platform knows them. It shows counts,
ranges and class names; of columns with tags, counts only. Of steps and splits it leaves out what may hold values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import yaml

from lightmill.datasets.croissant import column_text
from lightmill.datasets.described import Described
from lightmill.records.annotations import Notes
from lightmill.records.profile import ColumnSummary, NumberSummary
from lightmill.records.splitting import SPLITS

SOURCES_SHOWN = 20
STEP_SHOWN = 300
_SAID_NOTHING = "Nothing was written here."
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_MAY_HOLD_VALUES = ("value", "values", "where", "replace")
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


def render_card(known: Described, notes: Notes, schema: pa.Schema) -> str:
    """Return the card; text that people wrote stands in it as they wrote it."""
    front = yaml.safe_dump(_front(known, notes), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n".join(_lines(known, notes, schema)).rstrip() + "\n"


def _front(known: Described, notes: Notes) -> dict[str, object]:
    card = known.card
    rows = card.profile.rows_kept
    found: dict[str, object] = {"pretty_name": known.id.name}
    if card.licence and _LICENCE.fullmatch(card.licence):
        found["license"] = card.licence.lower()
    elif card.licence:
        found |= {"license": "other", "license_name": card.licence}
    if notes.tags:
        found["tags"] = [f"{name}={value}" for name, value in notes.tags.items()]
    found["size_categories"] = [next((name for limit, name in _SIZES if rows < limit), "n>10M")]
    files = [{"split": name, "path": f"{name}/*.parquet"} for name in SPLITS if card.profile.splits.get(name)]
    found["configs"] = [{"config_name": "default", "data_files": files}]
    return found


def _lines(known: Described, notes: Notes, schema: pa.Schema) -> Iterator[str]:
    yield from (f"# {known.id}", "", f"Published: {known.manifest.created}. Digest: `{known.id.digest}`.")
    for title, text in (
        ("Description", notes.text.description or known.card.description),
        ("Intended use", notes.text.intended_use),
        ("Limitations", notes.text.limitations),
    ):
        yield from ("", f"## {title}", "", text.strip() or _SAID_NOTHING)
    yield from ("", "## Schema", "")
    yield from _schema(known, schema)
    yield from ("", "## Splits and classes", "")
    yield from _splits(known)
    yield from ("", "## Rows", "")
    yield from _rows(known)
    yield from ("", "## Statistics", "")
    yield from _statistics(known)
    yield from ("", "## Preparation", "")
    yield from _preparation(known)
    yield from ("", "## Masking", "")
    yield from _masking(known)
    yield from ("", "## Provenance", "")
    yield from _provenance(known)


def _schema(known: Described, schema: pa.Schema) -> Iterator[str]:
    rules = known.rules()
    rows = []
    for field in schema:
        rule = rules.get(field.name)
        limits = [f"{what} {value}" for what, value in _limits(known, field.name)]
        tags = ", ".join(rule.tags) if rule else ""
        rows.append((field.name, str(field.type), column_text(known, field), ", ".join(limits), tags))
    yield from _table(("column", "stored as", "what", "declared", "tags"), rows)
    left = [name for name in rules if name not in schema.names]
    if left:
        yield from ("", f"Declared but not stored under its own name: {', '.join(_code(name) for name in left)}.")


def _limits(known: Described, name: str) -> Iterator[tuple[str, object]]:
    rule = known.rules().get(name)
    if rule is None or rule.tags:
        return
    for what in ("minimum", "maximum", "max_length", "max_nulls", "pattern"):
        value = getattr(rule, what)
        if value is not None:
            yield what, value
    if rule.unique:
        yield "unique", "values"


def _splits(known: Described) -> Iterator[str]:
    found = known.card.profile
    yield from _table(("split", "rows"), [(name, found.splits[name]) for name in SPLITS if name in found.splits])
    balance = known.profile.classes if known.profile else None
    if known.label_is_personal():
        yield from ("", "The label has tags, so that its classes are not named here.")
    elif balance:
        yield ""
        rows = [(name, *counts) for name, counts in zip(balance.classes, balance.counts, strict=True)]
        yield from _table((f"class of {balance.column}", *balance.splits), rows)
    elif found.classes:
        yield ""
        yield from _table(("class", "rows"), list(found.classes.items()))
    split = known.spec.get("split")
    if isinstance(split, dict):
        yield from ("", f"Rows were divided by: {_code(_brief(split))}.")


def _rows(known: Described) -> Iterator[str]:
    found = known.card.profile
    counts = [("read", found.rows_in), ("kept", found.rows_kept), ("values moved to their limits", found.clipped)]
    counts += [(f"dropped: {reason}", count) for reason, count in found.dropped.items()]
    counts += [(f"kept aside: {reason}", count) for reason, count in found.quarantined.items()]
    yield from _table(("rows", "count"), counts)
    yield from ("", "Rows kept aside are not part of an export.")


def _statistics(known: Described) -> Iterator[str]:
    if known.profile is None:
        yield "The version was made without a profile."
        return
    head = ("column", "type", "role", "values", "missing", "distinct", "minimum", "mean", "maximum", "std")
    yield from _table(head, [_column(column) for column in known.profile.columns])
    yield from ("", "In source units after masking, over all splits. Of columns with tags only counts are shown.")


def _column(column: ColumnSummary) -> tuple[object, ...]:
    about = "" if column.distinct_exact else "about "
    distinct = "" if column.distinct is None or column.hidden else f"{about}{column.distinct}"
    numbers = column.numbers if column.numbers and not column.hidden else NumberSummary(count=0)
    shown = ("" if value is None else f"{value:.6g}" for value in _four(numbers))
    return (column.name, column.dtype, column.role, column.count, column.nulls, distinct, *shown)


def _four(numbers: NumberSummary) -> tuple[float | None, ...]:
    return (numbers.minimum, numbers.mean, numbers.maximum, numbers.std)


def _preparation(known: Described) -> Iterator[str]:
    steps = known.spec.get("prepare")
    if not isinstance(steps, list) or not steps:
        yield "None."
        return
    yield "Fitted on the training split alone:"
    yield ""
    for step in steps:
        yield f"1. {_code(_brief(step))}"


def _masking(known: Described) -> Iterator[str]:
    masked = known.card.profile.masked
    if masked is None:
        yield "No masking policy was applied."
        return
    yield f"Policy {_code(masked.policy)}, version {masked.version}, over {masked.rows} rows."
    yield ""
    rows = [(count.column, count.detector or "all values", count.action, count.values) for count in masked.counts]
    yield from _table(("column", "found by", "action", "values"), rows)
    if masked.epsilon:
        spent = ", ".join(f"{name} {value:g}" for name, value in masked.epsilon.items())
        yield from ("", f"Noise spends epsilon for one row: {spent}; together {masked.epsilon_per_row():g}.")
    yield from ("", "Masking is no proof of anonymity: pseudonyms can be linked, and detectors miss spellings.")


def _provenance(known: Described) -> Iterator[str]:
    origin, sources = known.manifest.provenance, known.card.sources
    size = sum(source.size_bytes for source in sources)
    yield f"- Sources: {len(sources)} with {size} bytes"
    if len(sources) <= SOURCES_SHOWN and not any(one.rows_are_files for one in known.card.origins):
        yield from (f"  - {_code(source.name)} (SHA-256 `{source.sha256}`)" for source in sources)
    if origin.job:
        yield f"- Job: {origin.job}"
    if origin.code.commit:
        yield f"- Code: {origin.code.commit}{' (with changes)' if origin.code.dirty else ''}"
    if origin.packages:
        yield "- Packages: " + ", ".join(f"{name} {number}" for name, number in origin.packages.items())


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(_cell(value) for value in row) + " |" for row in rows)


def _cell(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _brief(value: object) -> str:
    text = json.dumps(_without_values(value), ensure_ascii=False)
    return text if len(text) <= STEP_SHOWN else f"{text[:STEP_SHOWN]} ..."


def _code(text: str) -> str:
    return "`" + text.replace("`", "'").replace("\n", " ") + "`"


def _without_values(value: object) -> object:
    """Return a step or split without empty fields and without those that may hold a value of a row."""
    if isinstance(value, list):
        return [_without_values(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {key: one for key, one in value.items() if one is not None and key not in _MAY_HOLD_VALUES}
    return {key: _without_values(one) for key, one in kept.items()}
