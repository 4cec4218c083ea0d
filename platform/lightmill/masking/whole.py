"""Every value of a column masked by one rule: redact, partial, pseudonym, token, generalize or noise.

The type of the result follows from the type of the column and the rule alone, so that all blocks agree.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute

from lightmill.errors import RequestError
from lightmill.masking.distinct import Distinct
from lightmill.masking.generalizing import coarse_date, parse_date, parse_number, ranges
from lightmill.masking.keys import MaskingKey
from lightmill.masking.noise import add_noise
from lightmill.masking.planning import ColumnPlan
from lightmill.masking.replacing import placeholder, replacer, tokenizer
from lightmill.records.masking import DateStep, GeneralizeRule, NoiseRule, RedactRule, TokenRule

pc: Any = compute  # pyarrow makes its functions at import, where type checkers do not see them

RowIds = npt.NDArray[np.int64]


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def mask_whole(array: pa.Array, plan: ColumnPlan, key: MaskingKey | None, row_ids: RowIds | None) -> pa.Array:
    """Return the array with every value masked; null stays null.

    Args:
        array: A flat array; nested ones are masked leaf by leaf.
        plan: Its `whole` rule says how; keep and drop are not for this function.
        key: Needed by pseudonyms, tokens and noise.
        row_ids: int64 [rows], needed by noise.

    Raises:
        RequestError: The rule does not fit the column's type, or noise has no row ids.
    """
    rule = plan.whole
    if isinstance(rule, RedactRule):
        if not is_text(array.type):
            return pa.nulls(len(array), array.type)
        return pc.if_else(array.is_valid(), pa.scalar(placeholder(plan.label), array.type), array)
    if isinstance(rule, NoiseRule):
        return _noisy(array, plan, rule, key, row_ids)
    if isinstance(rule, GeneralizeRule) and (rule.width is not None or rule.edges is not None):
        return _ranges(array, plan, rule)
    if isinstance(rule, GeneralizeRule) and rule.date is not None:
        return _dates(array, plan, rule)
    if isinstance(rule, TokenRule) and pa.types.is_integer(array.type):
        tokens = tokenizer(rule, plan.label, key)
        limit = _limit_of(array.type)
        return _each(array, lambda value: tokens.number(value, limit), array.type)
    if rule is None:
        return array
    return _each(_as_text(array, plan), replacer(rule, plan.label, str, key), None)


def _noisy(
    array: pa.Array, plan: ColumnPlan, rule: NoiseRule, key: MaskingKey | None, row_ids: RowIds | None
) -> pa.Array:
    if not _is_number(array.type):
        raise _misfit(plan, array.type, "a number")
    if row_ids is None or len(row_ids) != len(array):
        given = "none" if row_ids is None else f"{len(row_ids)} of them for {len(array)} values"
        raise RequestError(
            f"masking column {plan.path!r}: noise needs one row id for each row, given {given}; noise inside lists is "
            "not possible."
        )
    if key is None:
        raise RequestError(f"masking column {plan.path!r}: noise needs a key; give Masker a key of 32 bytes.")
    whole = pa.types.is_integer(array.type)
    secret = key.derive("noise", plan.path, rule.model_dump_json(exclude={"columns", "tags"}))
    noisy = add_noise(_as_float(array), row_ids, secret, rule, whole=whole)
    if not whole:
        return pa.array(noisy, pa.float64(), mask=_nulls(array))
    noisy[_nulls(array)] = 0.0
    return pa.array(noisy.astype(np.int64), pa.int64(), mask=_nulls(array))


def _ranges(array: pa.Array, plan: ColumnPlan, rule: GeneralizeRule) -> pa.Array:
    if is_text(array.type):
        distinct = Distinct.of(array)
        numbers = np.array([parse_number(text) for text in distinct.values.to_pylist()], dtype=np.float64)
        labels = ranges(numbers, rule)
        if not rule.lower_bound:
            labels = labels.fill_null(placeholder(plan.label))
        return distinct.rebuild(labels)
    if not _is_number(array.type):
        raise _misfit(plan, array.type, "a number or text")
    return ranges(_as_float(array), rule)


def _dates(array: pa.Array, plan: ColumnPlan, rule: GeneralizeRule) -> pa.Array:
    step: DateStep = rule.date or "year"
    hidden = placeholder(plan.label)
    if is_text(array.type):
        return _each(array, lambda text: _dated(parse_date(text), step, hidden), pa.string())
    if not (pa.types.is_date(array.type) or pa.types.is_timestamp(array.type)):
        raise _misfit(plan, array.type, "a date, a timestamp or text")
    if pa.types.is_timestamp(array.type) and array.type.tz is not None:
        array = pc.local_timestamp(array)
    return _each(array.cast(pa.date32(), safe=False), lambda day: _dated(day, step, hidden), pa.string())


def _dated(day: date | None, step: DateStep, hidden: str) -> str:
    return hidden if day is None else coarse_date(day, step)


def _each(array: pa.Array, change: Callable[..., object], kind: pa.DataType | None) -> pa.Array:
    """Return the array with each distinct value changed, one Python call for each."""
    distinct = Distinct.of(array)
    changed = [change(value) for value in distinct.values.to_pylist()]
    return distinct.rebuild(pa.array(changed, kind or array.type))


def _as_text(array: pa.Array, plan: ColumnPlan) -> pa.Array:
    kind = array.type
    if is_text(kind):
        return array
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_date(kind):
        return array.cast(pa.string())
    raise _misfit(plan, kind, "text, a whole number, a decimal or a date")


def _as_float(array: pa.Array) -> npt.NDArray[np.float64]:
    values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.where(_nulls(array), np.nan, values).astype(np.float64)


def _nulls(array: pa.Array) -> npt.NDArray[np.bool_]:
    return array.is_null().to_numpy(zero_copy_only=False)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _limit_of(kind: pa.DataType) -> int:
    """Return the first positive number that an integer type cannot hold."""
    return 1 << (kind.bit_width - (1 if pa.types.is_signed_integer(kind) else 0))


def _misfit(plan: ColumnPlan, kind: pa.DataType, wanted: str) -> RequestError:
    action = plan.whole.action if plan.whole else ""
    return RequestError(
        f"masking column {plan.path!r}: {action} needs {wanted}, but the column is {kind}; change the rule's action or "
        "the column's dtype."
    )
