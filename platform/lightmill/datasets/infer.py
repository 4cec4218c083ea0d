"""A first `dataset.yaml` from samples of the source: guesses with their reasons, for a person to check.

The proposal judges its sample without a breach. Limits have slack, so that new data has room; values of columns whose
names hint at personal data are never written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import compute

from lightmill.datasets.guesses import Guess, common_columns, guess_column, quoted
from lightmill.datasets.hints import is_key, label_rank, personal_tag
from lightmill.datasets.infer_yaml import families, proposal_text
from lightmill.errors import RequestError
from lightmill.records.quality import FLOATS, INTEGERS

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them

CATEGORIES_MAX = 20
CLASSES_MAX = 100
VALUE_LENGTH_MAX = 100
TEXT_LENGTH = 40
SLACK = 0.1
_EXACT = 2**53
_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A proposed specification: as a mapping, and as YAML text with comments that loads to the same mapping."""

    spec: dict[str, Any]
    text: str


def propose(
    tables: Mapping[str, pa.Table], name: str, source: Mapping[str, Any] | None = None, remarks: Sequence[str] = ()
) -> Proposal:
    """Return a first specification for a dataset.

    Args:
        tables: Samples of the source's rows by file name, such as the first thousand rows of each file.
        name: The dataset's name.
        source: The `source` section, where it is known.
        remarks: What else the text should say at its beginning, as comments.

    Raises:
        RequestError: There is no column in common to propose, or a file has a column twice.
    """
    columns, notes = common_columns(tables)
    guesses = [guess for column, parts in columns.items() if (guess := guess_column(column, parts, notes)) is not None]
    if not guesses:
        raise RequestError(f"The sample of {', '.join(tables) or 'no file'} has no column that can be declared.")
    _choose_label(guesses)
    for guess in guesses:
        _describe(guess)
    rules = {
        "missing": "quarantine",
        "out_of_range": "quarantine",
        "type": "quarantine",
        "unreadable": "quarantine",
        "unique": "quarantine",
        "duplicates": "drop",
    }
    entries = families(guesses)
    label = next((guess for guess in guesses if guess.rule["role"] == "label"), None)
    stratified = label is not None and "values" in label.rule
    split = {"by": "stratified" if stratified else "random", "train": 0.7, "validation": 0.1, "test": 0.2, "seed": 0}
    spec: dict[str, Any] = {"name": name}
    if source:
        spec["source"] = dict(source)
    features = [guess for guess in guesses if guess.rule["role"] == "feature"]
    if features and all(guess.dtype in (*INTEGERS, *FLOATS) for guess in features):
        spec["features"] = {"shape": [len(features)]}
    spec |= {"columns": [rule for rule, _ in entries], "rules": rules, "split": split}
    rows = sum(table.num_rows for table in tables.values())
    return Proposal(
        spec=spec, text=proposal_text(spec, entries, [*remarks, *notes, *_advice(guesses, label)], rows, len(tables))
    )


def _advice(guesses: list[Guess], label: Guess | None) -> list[str]:
    out = [] if label else ["no label was found: give role `label` to the column to predict"]
    keys = [g.name for g in guesses if g.rule["role"] == "key" and not g.rule.get("unique")]
    times = [g.name for g in guesses if g.rule["role"] == "time"]
    out += [f"rows that share {quoted(name)} may leak: consider split: {{by: grouped, column: ...}}" for name in keys]
    out += [f"rows have times in {quoted(name)}: consider split: {{by: sequential, column: ...}}" for name in times]
    return out


# -- roles, limits, values ----------------------------------------------------


def _choose_label(guesses: list[Guess]) -> None:
    """Give role `label` to the column whose name hints at it most, else to a last column of few values."""

    def serves(guess: Guess) -> bool:
        few = 2 <= guess.distinct <= CLASSES_MAX and guess.distinct <= max(guess.there // 2, 2)
        return guess.dtype in ("bool", "string", *INTEGERS) and few and _short(guess) and not personal_tag(guess.name)

    ranked = [
        (rank, at) for at, one in enumerate(guesses) if (rank := label_rank(one.name)) is not None and serves(one)
    ]
    if ranked:
        guess = guesses[min(ranked)[1]]
        guess.why.append("label by its name")
    elif serves(guesses[-1]) and guesses[-1].distinct <= _few(guesses[-1]) and not is_key(guesses[-1].name):
        guess = guesses[-1]
        guess.why.append("label since it is last and has few values")
    else:
        return
    guess.rule["role"] = "label"
    guess.rule["values"] = _sorted_values(guess)


def _few(guess: Guess) -> int:
    """Return how many different values still look like categories: at most one in five rows."""
    return min(CATEGORIES_MAX, guess.there // 5)


def _short(guess: Guess) -> bool:
    if guess.dtype != "string" or not guess.there:
        return True
    return pc.max(pc.utf8_length(guess.values)).as_py() <= VALUE_LENGTH_MAX


def _sorted_values(guess: Guess) -> list[Any]:
    return sorted(guess.values.drop_null().unique().to_pylist())


def _describe(guess: Guess) -> None:
    rule, dtype = guess.rule, guess.dtype
    tag = personal_tag(guess.name)
    if "role" not in rule:
        rule["role"] = _role(guess, tag)
    if tag:
        rule["tags"] = [tag]
        guess.why.append(f"{tag} by its name: values stay out of profiles")
    elif rule["role"] == "feature" and dtype in (*INTEGERS, *FLOATS):
        _limits(guess)
    elif rule["role"] == "feature" and dtype == "string":
        rule["values"] = _sorted_values(guess)
    if dtype in FLOATS and not tag and guess.there and not bool(pc.all(pc.is_finite(guess.values)).as_py()):
        _admit_infinity(guess)
    elif guess.rule["dtype"].rstrip(">").endswith(FLOATS) and (tag or "<" in dtype):
        _admit_infinity(guess, only_if_needed=True)
    if rule["role"] == "text" and guess.there:
        rule["max_length"] = _round_up(2 * pc.max(pc.utf8_length(guess.values)).as_py())
    nulls = guess.values.null_count
    if nulls and rule["role"] != "ignore":
        rule["max_nulls"] = min(1.0, math.ceil((1.5 * nulls / guess.rows + 0.01) * 100) / 100)
    if nulls:
        guess.why.append(f"{nulls} of {guess.rows} missing")


def _role(guess: Guess, tag: str | None) -> str:
    dtype = guess.dtype
    if is_key(guess.name) and dtype in ("string", *INTEGERS):
        if guess.there == guess.rows == guess.distinct and guess.rows > 1 and guess.name.lower() in ("id", "uuid"):
            guess.rule["unique"] = True
            guess.why.append("key by its name; no value occurs twice")
        else:
            guess.why.append("key by its name")
        return "key"
    if tag or not guess.there:
        guess.why += [] if guess.there else ["no values in the sample"]
        return "ignore"
    if dtype in ("date", "timestamp"):
        return "time"
    if dtype == "string":
        return _text_role(guess)
    if dtype == "binary":
        first = guess.values.drop_null()[0].as_py()
        return "image" if first.startswith(_IMAGES) else "ignore"
    if dtype.startswith("list"):
        guess.why.append("lists of any length; prepare them before they are features")
        return "ignore"
    return "feature"


def _text_role(guess: Guess) -> str:
    if guess.distinct <= max(_few(guess), 2) and _short(guess):
        guess.why.append(f"{guess.distinct} values; encode them in `prepare`")
        return "feature"
    if pc.mean(pc.utf8_length(guess.values)).as_py() > TEXT_LENGTH:
        return "text"
    guess.why.append(f"{guess.distinct} different texts: give it a role if a model should see it")
    return "ignore"


def _admit_infinity(guess: Guess, *, only_if_needed: bool = False) -> None:
    if only_if_needed:
        flat = guess.values.combine_chunks()
        inner = pc.list_flatten(flat) if "<" in guess.dtype else flat
        if pc.all(pc.is_finite(inner)).as_py() is not False:
            return
    guess.rule["finite"] = False
    guess.rule.pop("minimum", None)
    guess.rule.pop("maximum", None)
    guess.why.append("has infinities; remove `finite: false` to refuse them")


def _limits(guess: Guess) -> None:
    """Write limits a tenth of the range beyond the sample's, in round numbers; what is not negative stays so."""
    if not guess.there:
        return
    found = pc.min_max(guess.values).as_py()
    low, high = found["min"], found["max"]
    if not (math.isfinite(low) and math.isfinite(high) and max(abs(low), abs(high)) < _EXACT):
        return
    slack = (high - low) * SLACK or max(abs(high) * SLACK, 1)
    digits = math.floor(math.log10(slack)) if slack >= 1e-300 else -300
    step = 10.0**digits
    least, most = math.floor((low - slack) / step) * step, math.ceil((high + slack) / step) * step
    least = min(max(least, 0) if low >= 0 else least, low)
    most = max(min(most, 0) if high <= 0 else most, high)
    if guess.dtype in INTEGERS:
        guess.rule |= {"minimum": math.floor(least), "maximum": math.ceil(most)}
    elif math.isfinite(least) and math.isfinite(most):
        guess.rule |= {"minimum": min(float(f"{least:.12g}"), low), "maximum": max(float(f"{most:.12g}"), high)}


def _round_up(length: int) -> int:
    step = 10 ** max(len(str(length)) - 2, 1)
    return -(-max(length, 1) // step) * step
