"""The text of a proposed `dataset.yaml`: one line a column with its reasons, runs of numbered columns as families."""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from lightmill.datasets.guesses import Guess

_NUMBERED = re.compile(r"(.*?)(\d+)")


def families(guesses: list[Guess]) -> list[tuple[dict[str, Any], list[str]]]:
    """Return the declarations in order, runs of numbered columns that differ in limits only as one."""
    out: list[tuple[dict[str, Any], list[str]]] = []
    run: list[Guess] = []
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
    return {key: value for key, value in rule.items() if key not in ("minimum", "maximum", "max_nulls")}


def _continues(before: Guess, after: Guess) -> bool:
    first, second = _NUMBERED.fullmatch(before.name), _NUMBERED.fullmatch(after.name)
    if not first or not second or first[1] != second[1] or len(first[2]) != len(second[2]):
        return False
    alike = _plain(before.rule) == _plain(after.rule) and ("minimum" in before.rule) == ("minimum" in after.rule)
    ascii_digits = first[2].isascii() and second[2].isascii()
    return ascii_digits and int(second[2]) == int(first[2]) + 1 and alike and after.rule["role"] == "feature"


def _family(run: list[Guess]) -> tuple[dict[str, Any], list[str]]:
    first, last = _NUMBERED.fullmatch(run[0].name), _NUMBERED.fullmatch(run[-1].name)
    prefix, low, high = (first[1], first[2], last[2]) if first and last else ("", "", "")
    rule: dict[str, Any] = {"name": f"{prefix}{{{low}..{high}}}", **_ordered(run[0].rule)}
    if "minimum" in rule:
        rule["minimum"] = min(one.rule["minimum"] for one in run)
        rule["maximum"] = max(one.rule["maximum"] for one in run)
    nulls = sum(one.values.null_count for one in run)
    if nulls:
        rule["max_nulls"] = max(one.rule.get("max_nulls", 0.0) for one in run)
    return rule, [f"{len(run)} columns", *([f"{nulls} of {sum(one.rows for one in run)} missing"] if nulls else [])]


def _ordered(rule: dict[str, Any]) -> dict[str, Any]:
    first = {key: rule[key] for key in ("dtype", "shape", "role") if key in rule}
    return {**first, **{key: value for key, value in rule.items() if key not in first}}


def _flow(value: Any) -> str:
    """Return a value on one line; quoted and escaped throughout where it holds control characters."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True).strip()
    if text.isprintable():
        return text
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False, default_style='"').strip()


def proposal_text(
    spec: dict[str, Any], entries: list[tuple[dict[str, Any], list[str]]], notes: list[str], rows: int, files: int
) -> str:
    """Return YAML that loads to `spec`; `entries` are its columns with their comments, from `families`."""
    lines = [f"# Proposed from a sample of {rows} rows of {files} files. Check roles, limits and rules before use."]
    lines += [f"# {note}." for note in notes]
    lines.append(_flow({"name": spec["name"]})[1:-1])
    if "source" in spec:
        lines.append(f"source: {_flow(spec['source'])}")
    if "features" in spec:
        lines.append(f"features: {_flow(spec['features'])}")
    lines += ["", "columns:"]
    for rule, why in entries:
        comment = f"  # {'; '.join(why)}" if why else ""
        lines.append(f"  - {_flow(rule)}{comment}")
    lines += ["", "# What happens to rows that break the columns: fail, drop, quarantine (clip, keep)."]
    lines += [f"rules: {_flow(spec['rules'])}", "", f"split: {_flow(spec['split'])}", ""]
    return "\n".join(lines)
