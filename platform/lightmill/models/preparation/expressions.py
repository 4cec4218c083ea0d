"""Expressions computed with Arrow's kernels over a table, in the three-valued logic of SQL.

NULL in, NULL out, but for `and`, `or`, `coalesce`, `if` (NULL is not true) and `is null`. NaN in a column is NULL. What
has no finite value is NULL too: division by 0, `%` by 0, `log` of what is not positive, `exp` beyond float64. Integers
do not wrap around: an overflow is an error. `/` and `%` compute in float64.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.models.preparation.columns import column_of, is_text, one_array, with_column
from lightmill.models.preparation.kernels import pc
from lightmill.models.preparation.syntax import Call, Column, Literal, Node, columns_in, parse, refusal

_COMPARE = {
    "=": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
_ADD = {"+": "add_checked", "-": "subtract_checked", "*": "multiply_checked"}
_PLAIN = {"lower": "utf8_lower", "upper": "utf8_upper", "length": "utf8_length"}
_MATCH = {"contains": "match_substring", "startswith": "starts_with"}
_ARROW_ERRORS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, OverflowError)


class Expression:
    """An expression made ready to compute."""

    def __init__(self, text: str) -> None:
        """Parse the text.

        Raises:
            RequestError: It is not in the language; the message has the position.
        """
        self._text = text
        self._tree = parse(text)

    @property
    def columns(self) -> frozenset[str]:
        """The names of the columns that it reads."""
        return columns_in(self._tree)

    def values(self, table: pa.Table) -> pa.Array:
        """Return the value for each row.

        Raises:
            RequestError: A column is missing, types do not fit or an integer overflows; the message has the position.
        """
        found = self._compute(self._tree, table)
        if isinstance(found, pa.Scalar):
            return pa.repeat(found, len(table))
        return found

    def mask(self, table: pa.Table) -> pa.Array:
        """Return a boolean for each row, for a `filter`; see `values`.

        Raises:
            RequestError: The expression's value is not a boolean, or as for `values`.
        """
        found = self.values(table)
        if pa.types.is_null(found.type):
            return found.cast(pa.bool_())
        if not pa.types.is_boolean(found.type):
            raise refusal(self._text, 0, f"a filter needs true or false, but this gives {found.type}")
        return found

    def _compute(self, node: Node, table: pa.Table) -> Any:
        match node:
            case Literal():
                return pa.scalar(node.value)
            case Column():
                return self._column(node, table)
            case Call():
                arguments = [self._compute(argument, table) for argument in node.arguments]
                try:
                    return _call(node.name, arguments)
                except _ARROW_ERRORS as exc:
                    kinds = ", ".join(str(argument.type) for argument in arguments[:3])
                    reason = str(exc).splitlines()[0]
                    raise refusal(self._text, node.at, f"{node.name!r} of {kinds} fails ({reason})") from exc

    def _column(self, node: Column, table: pa.Table) -> pa.Array:
        try:
            values = one_array(column_of(table, node.name, "expression"))
        except RequestError as exc:
            raise refusal(self._text, node.at, exc.message.partition(": ")[2].rstrip(".")) from exc
        if pa.types.is_floating(values.type):
            wide = values.cast(pa.float64())
            return _only_if(pc.invert(pc.is_nan(wide)), wide) if pc.any(pc.is_nan(wide)).as_py() else wide
        return values.cast(pa.large_string()) if is_text(values.type) else values


def filter_rows(table: pa.Table, where: Expression) -> pa.Table:
    """Return the rows for which the expression is true; see `Expression.mask` for errors."""
    return table.filter(where.mask(table))


def derive(table: pa.Table, column: str, value: Expression) -> pa.Table:
    """Return the table with a column of the expression's values; see `Expression.values` for errors."""
    return with_column(table, column, value.values(table))


def _call(name: str, a: list[Any]) -> Any:
    if name in ("and", "or"):
        return pc.call_function(f"{name}_kleene", [_boolean(x) for x in a])
    if name == "not":
        return pc.invert(_boolean(a[0]))
    if name in _COMPARE:
        return pc.call_function(_COMPARE[name], _alike(a))
    if name in _ADD:
        return pc.call_function(_ADD[name], _numbers(a))
    if name in ("/", "%"):
        return _divide(name, *(_wide(x) for x in a))
    if name in _PLAIN:
        return pc.call_function(_PLAIN[name], [_texts(a[0])])
    if name in _MATCH:
        return _match(name, a)
    return _OTHERS[name](a)


def _only_if(condition: Any, value: Any) -> Any:
    """Return the value where the condition is true, else NULL."""
    return pc.if_else(condition, value, pa.scalar(None, value.type))


def _boolean(x: Any) -> Any:
    if not (pa.types.is_boolean(x.type) or pa.types.is_null(x.type)):
        raise pa.ArrowTypeError("true or false is needed; write a comparison")
    return x.cast(pa.bool_())


def _numbers(a: list[Any]) -> list[Any]:
    for x in a:
        if not (pa.types.is_integer(x.type) or pa.types.is_floating(x.type) or pa.types.is_null(x.type)):
            raise pa.ArrowTypeError("numbers are needed")
    return [x.cast(pa.int64()) if pa.types.is_null(x.type) or pa.types.is_integer(x.type) else x for x in a]


def _wide(x: Any) -> Any:
    return _numbers([x])[0].cast(pa.float64(), safe=False)


def _texts(x: Any) -> Any:
    if not (is_text(x.type) or pa.types.is_null(x.type)):
        raise pa.ArrowTypeError("text is needed")
    return x.cast(pa.large_string())


def _alike(a: list[Any]) -> list[Any]:
    """Return values that can be compared: all text, all numbers, or all of one type."""
    known = [x for x in a if not pa.types.is_null(x.type)]
    if any(is_text(x.type) for x in known) and all(is_text(x.type) for x in known):
        return [_texts(x) for x in a]
    if any(pa.types.is_boolean(x.type) for x in known):
        return [_boolean(x) for x in a]
    if not known:
        return [x.cast(pa.bool_()) for x in a]
    if any(pa.types.is_temporal(x.type) for x in known):
        kind = next(x.type for x in known if pa.types.is_temporal(x.type))
        return [x.cast(kind) if is_text(x.type) or pa.types.is_null(x.type) else x for x in a]
    if any(is_text(x.type) for x in known):
        raise pa.ArrowTypeError("text and numbers do not compare")
    return a


def _divide(name: str, left: Any, right: Any) -> Any:
    defined = pc.not_equal(right, 0.0)
    safe = pc.if_else(defined, right, pa.scalar(None, pa.float64()))
    quotient = pc.divide(left, safe)
    if name == "%":
        # The sign of the result is that of the left side, as in SQL.
        quotient = pc.subtract(left, pc.multiply(pc.trunc(quotient), safe))
    return _finite(quotient)


def _finite(x: Any) -> Any:
    return _only_if(pc.is_finite(x), x)


def _match(name: str, a: list[Any]) -> Any:
    if not isinstance(a[1], pa.Scalar) or not is_text(a[1].type):
        raise pa.ArrowTypeError("its second argument must be a text in quotes")
    return pc.call_function(_MATCH[name], [_texts(a[0])], pc.MatchSubstringOptions(a[1].as_py()))


def _in(a: list[Any]) -> Any:
    value, values = a[0], _alike([a[0], *a[1:]])[1:]
    known = [x.as_py() for x in values if x.is_valid]
    if not known or pa.types.is_null(value.type):
        return pa.scalar(None, pa.bool_())
    listed = pa.array(known)
    number = pa.types.is_integer(value.type) or pa.types.is_floating(value.type)
    if number:
        value, listed = value.cast(pa.float64(), safe=False), listed.cast(pa.float64(), safe=False)
    elif is_text(listed.type):
        value, listed = _texts(value), listed.cast(pa.large_string())
    found = pc.is_in(value, value_set=listed)
    if len(known) < len(values):
        found = _only_if(found, found)
    return pc.if_else(pc.is_valid(value), found, pa.scalar(None, pa.bool_()))


def _choose(a: list[Any]) -> Any:
    return pc.if_else(pc.fill_null(_boolean(a[0]), False), *_alike_or_number(a[1:]))


def _alike_or_number(a: list[Any]) -> list[Any]:
    """Return values of one type: floats where integers and floats meet, large_string where texts do."""
    made = _alike(a)
    if any(pa.types.is_floating(x.type) for x in made):
        return [_wide(x) for x in made]
    kinds = [x.type for x in made if not pa.types.is_null(x.type)]
    if kinds and all(pa.types.is_integer(kind) for kind in kinds):
        return [x.cast(pa.int64()) for x in made]
    return [x.cast(kinds[0]) if kinds else x for x in made]


def _log(a: list[Any]) -> Any:
    x = _wide(a[0])
    return pc.ln(pc.if_else(pc.greater(x, 0.0), x, pa.scalar(None, pa.float64())))


def _between(a: list[Any]) -> Any:
    low, high = pc.greater_equal(*_alike([a[0], a[1]])), pc.less_equal(*_alike([a[0], a[2]]))
    return pc.and_kleene(low, high)


_OTHERS = {
    "between": _between,
    "negate": lambda a: pc.negate_checked(_numbers(a)[0]),
    "abs": lambda a: pc.abs_checked(_numbers(a)[0]),
    "log": _log,
    "exp": lambda a: _finite(pc.exp(_wide(a[0]))),
    "coalesce": lambda a: pc.coalesce(*_alike_or_number(a)),
    "if": _choose,
    "is_null": lambda a: pc.is_null(a[0]),
    "in": _in,
}
