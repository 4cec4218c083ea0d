"""A first `dataset.yaml` from samples of the source: guesses with their reasons, for a person to check.

The proposal judges its sample without a breach. Limits have slack, so that new data has room; values of columns whose
names hint at personal data are never written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import yaml
from pyarrow import compute

from lightmill.datasets.columns import ROW_ID
from lightmill.datasets.conversion import convert
from lightmill.datasets.hints import is_key, label_rank, personal_tag
from lightmill.errors import RequestError
from lightmill.records.quality import FLOATS, INTEGERS, ColumnRule

pc: Any = compute  # pyarrow makes these functions at import; type checkers do not see them

CATEGORIES_MAX = 20
CLASSES_MAX = 100
VALUE_LENGTH_MAX = 100
TEXT_LENGTH = 40
SLACK = 0.1
_EXACT = 2**53
_NUMBERED = re.compile(r"(.*?)(\d+)")
_FAMILY = re.compile(r"\{\d+\.\.\d+\}")
_LEADING_ZERO = r"^\s*[+-]?0[0-9]"
_LONG_INTEGER = r"^\s*[+-]?[0-9]{16,}\s*$"
_FROM_TEXT = ("bool", "int64", "float64", "date", "timestamp", "string")
_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A proposed specification: as a mapping, and as YAML text with comments that loads to the same mapping."""

    spec: dict[str, Any]
    text: str


@dataclass(slots=True, kw_only=True)
class _Guess:
    """What is known of one column while the proposal grows; `why` are the comments."""

    name: str
    rule: dict[str, Any]
    values: pa.ChunkedArray
    rows: int
    distinct: int
    why: list[str] = field(default_factory=list)

    @property
    def dtype(self) -> str:
        return self.rule["dtype"]

    @property
    def there(self) -> int:
        return self.rows - self.values.null_count


def propose(tables: Mapping[str, pa.Table], name: str, source: Mapping[str, Any] | None = None) -> Proposal:
    """Return a first specification for a dataset.

    Args:
        tables: Samples of the source's rows by file name, such as the first thousand rows of each file.
        name: The dataset's name.
        source: The `source` section, where it is known.

    Raises:
        RequestError: There is no column in common to propose, or a file has a column twice.
    """
    columns, notes = _columns(tables)
    guesses = [guess for column, parts in columns.items() if (guess := _guess(column, parts, notes)) is not None]
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
    entries = _families(guesses)
    label = next((guess for guess in guesses if guess.rule["role"] == "label"), None)
    stratified = label is not None and "values" in label.rule
    split = {"by": "stratified" if stratified else "random", "train": 0.7, "validation": 0.1, "test": 0.2, "seed": 0}
    spec: dict[str, Any] = {"name": name}
    if source:
        spec["source"] = dict(source)
    spec |= {"columns": [rule for rule, _ in entries], "rules": rules, "split": split}
    rows = sum(table.num_rows for table in tables.values())
    return Proposal(spec=spec, text=_text(spec, entries, notes + _advice(guesses, label), rows, len(tables)))


def _columns(tables: Mapping[str, pa.Table]) -> tuple[dict[str, list[pa.Array]], list[str]]:
    """Return the parts of every column that all tables have, in the order of the first, and notes on the others."""
    notes: list[str] = []
    for file, table in tables.items():
        names = table.column_names
        if len(set(names)) < len(names):
            twice = next(name for at, name in enumerate(names) if name in names[:at])
            raise RequestError(f"{file} has the column {twice!r} twice; rename one.")
    order = list(dict.fromkeys(name for table in tables.values() for name in table.column_names))
    out: dict[str, list[pa.Array]] = {}
    for name in order:
        holders = [table for table in tables.values() if name in table.column_names]
        if len(holders) < len(tables):
            notes.append(f"column {_quoted(name)} is in {len(holders)} of {len(tables)} files only, and left out")
        elif not name or name == ROW_ID or _FAMILY.search(name):
            notes.append(f"column {_quoted(name)} is left out: a column cannot be declared by this name; rename it")
        else:
            out[name] = [chunk for table in holders for chunk in table.column(name).chunks]
    return out, notes


def _guess(name: str, parts: list[pa.Array], notes: list[str]) -> _Guess | None:
    kinds = list(dict.fromkeys(str(part.type) for part in parts if not pa.types.is_null(part.type)))
    candidates = _candidates(parts)
    why = [] if len(kinds) < 2 else [f"the sample has {' and '.join(kinds)}"]
    for rule in candidates:
        # Infinities are no breach of a dtype, so they are admitted until their number is known.
        declared = ColumnRule.model_validate({"name": name, **rule})
        found = [convert(part, declared) for part in parts]
        if any(failed.any() for _, failed in found):
            continue
        kind = found[0][0].type if found else pa.string()
        values = pa.chunked_array([values for values, _ in found], type=kind)
        distinct = 0 if declared.container else len(values.drop_null().unique())
        return _Guess(name=name, rule=rule, values=values, rows=len(values), distinct=distinct, why=why)
    notes.append(f"column {_quoted(name)} is left out: its type ({', '.join(kinds)}) cannot be declared")
    return None


def _candidates(parts: list[pa.Array]) -> list[dict[str, Any]]:
    """Return the dtypes to try, the narrowest first."""
    kinds = [_unwrapped(part.type) for part in parts if not pa.types.is_null(part.type)]
    if not kinds:
        return [{"dtype": "string"}]
    if all(kind == kinds[0] for kind in kinds) and not _is_text(kinds[0]):
        first = _declared(kinds[0], next(part.type for part in parts if not pa.types.is_null(part.type)))
        return ([first] if first else []) + [{"dtype": name} for name in ("float64", "string", "binary")]
    texts = [part for part in parts if _is_text(_unwrapped(part.type))]
    if any(_matches(text, _LEADING_ZERO) or _matches(text, _LONG_INTEGER) for text in texts):
        return [{"dtype": "string"}]
    if texts and not _has_values(texts):
        return [{"dtype": "string"}]
    from_text = _FROM_TEXT if len(texts) < len(parts) or not _looks_binary(texts) else _FROM_TEXT[1:]
    return [{"dtype": name} for name in from_text]


def _has_values(texts: Sequence[pa.Array]) -> bool:
    declared = ColumnRule(name="c", dtype="float64")
    for text in texts:
        found, failed = convert(text, declared)
        if failed.any() or found.null_count < len(found):
            return True
    return False


def _looks_binary(texts: Sequence[pa.Array]) -> bool:
    """Return whether some text is a bare 0 or 1, which is a number rather than a truth value."""
    return any(_matches(text, r"^\s*[01]\s*$") for text in texts)


def _unwrapped(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _unwrapped(kind.storage_type)
    return _unwrapped(kind.value_type) if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _matches(texts: pa.Array, pattern: str) -> bool:
    plain, _ = convert(texts, ColumnRule(name="c", dtype="string"))
    return bool(pc.any(pc.match_substring_regex(plain, pattern)).as_py())


def _declared(kind: pa.DataType, whole: pa.DataType) -> dict[str, Any] | None:
    """Return the declaration of an Arrow type, or None for one that only a conversion can serve."""
    if isinstance(whole, pa.FixedShapeTensorType):
        inner = _declared(whole.value_type, whole.value_type)
        return inner and {"dtype": f"tensor<{inner['dtype']}>", "shape": list(whole.shape)}
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _declared(kind.value_type, kind.value_type)
        if not inner or "<" in inner["dtype"]:
            return None
        if pa.types.is_fixed_size_list(kind) and kind.list_size:
            return {"dtype": f"tensor<{inner['dtype']}>", "shape": [kind.list_size]}
        return {"dtype": f"list<{inner['dtype']}>"}
    names = {"double": "float64", "float": "float32", "halffloat": "float32", "large_string": "string"}
    name = names.get(str(kind), str(kind))
    if pa.types.is_timestamp(kind):
        name = "timestamp"
    if pa.types.is_date(kind):
        name = "date"
    if pa.types.is_decimal(kind):
        name = "float64"
    if name in ("bool", "string", "binary", "date", "timestamp", *INTEGERS, *FLOATS):
        return {"dtype": name}
    return None


# -- roles, limits, values ----------------------------------------------------


def _choose_label(guesses: list[_Guess]) -> None:
    """Give role `label` to the column whose name hints at it most, else to a last column of few values."""

    def serves(guess: _Guess) -> bool:
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


def _few(guess: _Guess) -> int:
    """Return how many different values still look like categories: at most one in five rows."""
    return min(CATEGORIES_MAX, guess.there // 5)


def _short(guess: _Guess) -> bool:
    if guess.dtype != "string" or not guess.there:
        return True
    return pc.max(pc.utf8_length(guess.values)).as_py() <= VALUE_LENGTH_MAX


def _sorted_values(guess: _Guess) -> list[Any]:
    return sorted(guess.values.drop_null().unique().to_pylist())


def _describe(guess: _Guess) -> None:
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


def _role(guess: _Guess, tag: str | None) -> str:
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


def _text_role(guess: _Guess) -> str:
    if guess.distinct <= max(_few(guess), 2) and _short(guess):
        guess.why.append(f"{guess.distinct} values; encode them in `prepare`")
        return "feature"
    if pc.mean(pc.utf8_length(guess.values)).as_py() > TEXT_LENGTH:
        return "text"
    guess.why.append(f"{guess.distinct} different texts: give it a role if a model should see it")
    return "ignore"


def _admit_infinity(guess: _Guess, *, only_if_needed: bool = False) -> None:
    if only_if_needed:
        flat = guess.values.combine_chunks()
        inner = pc.list_flatten(flat) if "<" in guess.dtype else flat
        if pc.all(pc.is_finite(inner)).as_py() is not False:
            return
    guess.rule["finite"] = False
    guess.rule.pop("minimum", None)
    guess.rule.pop("maximum", None)
    guess.why.append("has infinities; remove `finite: false` to refuse them")


def _limits(guess: _Guess) -> None:
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


# -- the text -----------------------------------------------------------------


def _families(guesses: list[_Guess]) -> list[tuple[dict[str, Any], list[str]]]:
    """Return the declarations in order, runs of numbered columns that differ in their limits only as one."""
    out: list[tuple[dict[str, Any], list[str]]] = []
    run: list[_Guess] = []
    for guess in [*guesses, None]:
        if guess is not None and run and _continues(run[-1], guess):
            run.append(guess)
            continue
        if len(run) > 2:
            out.append(_family(run))
        else:
            out += [({"name": one.name, **_ordered(one.rule)}, one.why) for one in run]
        run = [] if guess is None else [guess]
    return out


def _plain(rule: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rule.items() if key not in ("minimum", "maximum")}


def _continues(before: _Guess, after: _Guess) -> bool:
    first, second = _NUMBERED.fullmatch(before.name), _NUMBERED.fullmatch(after.name)
    if not first or not second or first[1] != second[1] or len(first[2]) != len(second[2]):
        return False
    alike = _plain(before.rule) == _plain(after.rule) and ("minimum" in before.rule) == ("minimum" in after.rule)
    ascii_digits = first[2].isascii() and second[2].isascii()
    return ascii_digits and int(second[2]) == int(first[2]) + 1 and alike and after.rule["role"] == "feature"


def _family(run: list[_Guess]) -> tuple[dict[str, Any], list[str]]:
    first, last = _NUMBERED.fullmatch(run[0].name), _NUMBERED.fullmatch(run[-1].name)
    prefix, low, high = (first[1], first[2], last[2]) if first and last else ("", "", "")
    rule: dict[str, Any] = {"name": f"{prefix}{{{low}..{high}}}", **_ordered(run[0].rule)}
    if "minimum" in rule:
        rule["minimum"] = min(one.rule["minimum"] for one in run)
        rule["maximum"] = max(one.rule["maximum"] for one in run)
    return rule, [f"{len(run)} columns"]


def _ordered(rule: dict[str, Any]) -> dict[str, Any]:
    first = {key: rule[key] for key in ("dtype", "shape", "role") if key in rule}
    return {**first, **{key: value for key, value in rule.items() if key not in first}}


def _advice(guesses: list[_Guess], label: _Guess | None) -> list[str]:
    out = [] if label else ["no label was found: give role `label` to the column to predict"]
    keys = [g.name for g in guesses if g.rule["role"] == "key" and not g.rule.get("unique")]
    times = [g.name for g in guesses if g.rule["role"] == "time"]
    out += [f"rows that share {_quoted(name)} may leak: consider split: {{by: grouped, column: ...}}" for name in keys]
    out += [f"rows have times in {_quoted(name)}: consider split: {{by: sequential, column: ...}}" for name in times]
    return out


def _quoted(name: str) -> str:
    """Return a name for a comment: on one line, whatever it holds."""
    return json.dumps(name)


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True).strip()


def _text(
    spec: dict[str, Any], entries: list[tuple[dict[str, Any], list[str]]], notes: list[str], rows: int, files: int
) -> str:
    lines = [f"# Proposed from a sample of {rows} rows of {files} files. Check roles, limits and rules before use."]
    lines += [f"# {note}." for note in notes]
    lines.append(_flow({"name": spec["name"]})[1:-1])
    if "source" in spec:
        lines.append(f"source: {_flow(spec['source'])}")
    lines += ["", "columns:"]
    for rule, why in entries:
        comment = f"  # {'; '.join(why)}" if why else ""
        lines.append(f"  - {_flow(rule)}{comment}")
    lines += ["", "# What happens to rows that break the columns: fail, drop, quarantine (clip, keep)."]
    lines += [f"rules: {_flow(spec['rules'])}", "", f"split: {_flow(spec['split'])}", ""]
    return "\n".join(lines)
