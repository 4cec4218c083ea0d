"""The expression language: what it means, where it says no, and that nothing else gets through."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.models.preparation import Expression
from lightmill.models.preparation.syntax import Call, Column, Literal, Node, parse, render
from tests.unit.models.preparation.examples import prepare

TABLE = pa.table(
    {
        "a": pa.array([1, 2, None, -4], pa.int64()),
        "b": [0.5, float("nan"), None, 2.0],
        "s": ["Red", "blue's", None, ""],
        "t": [True, False, None, True],
        "odd name": [1, 2, 3, 4],
        "day": pa.array([0, 1, None, 3], pa.date32()),
    }
)


def values(text: str) -> list[Any]:
    return Expression(text).values(TABLE).to_pylist()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a + 1", [2, 3, None, -3]),
        ("a - -1", [2, 3, None, -3]),
        ("2 + 3 * 4 - 1", [13] * 4),
        ("(2 + 3) * 4", [20] * 4),
        ("a / 2", [0.5, 1.0, None, -2.0]),
        ("a / 0", [None] * 4),
        ("a / (a - 2)", [-1.0, None, None, -4 / -6]),
        ("7 % a", [0.0, 1.0, None, 3.0]),
        ("-7 % 4", [-3.0] * 4),
        ("7 % 0", [None] * 4),
        ("b", [0.5, None, None, 2.0]),
        ("b * 2", [1.0, None, None, 4.0]),
        ("a = 2", [False, True, None, False]),
        ("a == 2 or t", [True, True, None, True]),
        ("a <> 2 and t", [True, False, None, True]),
        ("not (a > 1)", [True, False, None, True]),
        ("not a > 1", [True, False, None, True]),
        ("a is null", [False, False, True, False]),
        ("b is not null", [True, False, False, True]),
        ("is_null(b)", [False, True, True, False]),
        ("a in (1, 2.0)", [True, True, None, False]),
        ("a in (1, null)", [True, None, None, None]),
        ("a not in (1, -4)", [False, True, None, False]),
        ("s in ('Red', '')", [True, False, None, True]),
        ("null in (1)", [None] * 4),
        ("a between 1 and 1 + 1", [True, True, None, False]),
        ("a not between 1 and 2", [False, False, None, True]),
        ("lower(s)", ["red", "blue's", None, ""]),
        ("UPPER(s)", ["RED", "BLUE'S", None, ""]),
        ("length(s)", [3, 6, None, 0]),
        ("s = 'blue''s'", [False, True, None, False]),
        ("contains(s, 'e''s') or startswith(s, 'R')", [True, True, None, False]),
        ("abs(a)", [1, 2, None, 4]),
        ("log(a)", [0.0, math.log(2), None, None]),
        ("exp(a * 1000)", [None, None, None, 0.0]),
        ("coalesce(a, b, 7)", [1.0, 2.0, 7.0, -4.0]),
        ("coalesce(s, 'none')", ["Red", "blue's", "none", ""]),
        ("if(a > 1, 'big', s)", ["Red", "big", None, ""]),
        ("if(a > 1, 1, 0.5)", [0.5, 1.0, 0.5, 0.5]),
        ("null", [None] * 4),
        ("null and false", [False] * 4),
        ("null or true", [True] * 4),
        ('"odd name" * 2', [2, 4, 6, 8]),
        ("1e2 + .5 + 5.", [105.5] * 4),
        ("t = true", [True, False, None, True]),
        ("a >= 1 AND NOT (a >= 2)", [True, False, None, False]),
        ("a+1=2", [True, False, None, False]),
        ("day >= '1970-01-02'", [False, True, None, True]),
        ("day in ('1970-01-01')", [True, False, None, False]),
        ("day = null", [None] * 4),
    ],
)
def test_what_expressions_mean(text: str, wanted: list[Any]) -> None:
    assert values(text) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "position 1: expected a value"),
        ("a +", "position 4: expected a value"),
        ("a b", "position 3: 'b' does not belong here"),
        ("(a", r"position 3: expected '\)' for the parenthesis at position 1"),
        ("a = 'x", "position 5: a quote is not closed"),
        ("a ; b", "position 3: ';' is not understood"),
        ("sqrt(a)", "position 1: there is no function 'sqrt'"),
        ("length()", "position 1: 'length' takes 1 arguments, not 0"),
        ("if(a, 1)", "takes 3 arguments, not 2"),
        ("1 < a < 3", "comparisons do not chain"),
        ("a not 3", "expected `in` or `between`"),
        ("a in (b)", "`in` takes constants only"),
        ("a in ()", "expected a value"),
        ("a is 3", "expected 'null' after `is`"),
        ("99999999999999999999", "too large"),
        ("1e999", "too large"),
        ("missing + 1", "position 1: there is no column 'missing'"),
        ("a + s", "position 3: '[+]' of int64, large_string fails"),
        ("a = s", "position 3: '=' of int64, large_string fails"),
        ("a = 'x'", "do not compare"),
        ("not a", "position 1: 'not' of int64 fails"),
        ("a and t", "'and' of int64, bool fails"),
        ("lower(a)", "'lower' of int64 fails"),
        ("contains(s, s)", "must be a text in quotes"),
        ("9223372036854775807 + a", "overflow"),
        ("if(t, 1, 'a')", "'if' of bool, int64, string fails"),
        ("a.b", "is not understood"),
        ("__import__('os')", "there is no function"),
        ("a[0]", "is not understood"),
        ("lambda x", "does not belong here"),
        ("day > 'soon'", "position 5: '>' of date32"),
        ("day > 1", "position 5: '>' of date32"),
    ],
)
def test_what_is_refused_and_where(text: str, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        Expression(text).values(TABLE)


@pytest.mark.parametrize(
    "text", ["(" * 5000 + "a", "not " * 2000 + "t", "-" * 5000 + "a", "a" + "+1" * 4000, "1 " * 6000]
)
def test_deep_and_long_expressions_end_in_an_error(text: str) -> None:
    with pytest.raises(RequestError):
        Expression(text)
    nested = "a between 1 and 2"
    for _ in range(30):
        nested = f"({nested}) = true"
    assert values(nested) == [True, True, None, False]


NAMES = st.sampled_from(["a", "b", "s", "t"])


def calls(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    def call(name: str, *arguments: Node) -> Call:
        height = 1 + max((x.height for x in arguments if isinstance(x, Call)), default=0)
        return Call(at=0, name=name, arguments=arguments, height=height)

    two = st.sampled_from(["+", "-", "*", "/", "%", "=", "!=", "<", "<=", ">", ">=", "and", "or"])
    one = st.sampled_from(["not", "negate", "lower", "length", "abs", "is_null", "log"])
    return st.one_of(
        st.builds(call, two, children, children),
        st.builds(call, one, children),
        st.builds(lambda *x: call("if", *x), children, children, children),
        st.builds(lambda *x: call("between", *x), children, children, children),
        st.builds(lambda x, *y: call("in", x, *y), children, LITERALS, LITERALS),
    )


LITERALS = st.builds(
    lambda value: Literal(at=0, value=value),
    st.one_of(
        st.none(), st.booleans(), st.integers(0, 2**63 - 1), st.floats(0, 1e300, allow_nan=False), st.text(max_size=5)
    ),
)
TREES = st.recursive(st.one_of(LITERALS, st.builds(lambda name: Column(at=0, name=name), NAMES)), calls, max_leaves=12)


def without_places(node: Node) -> Any:
    match node:
        case Literal():
            return (type(node.value).__name__, node.value)
        case Column():
            return node.name
        case Call():
            return (node.name, *map(without_places, node.arguments))


@given(TREES)
@settings(max_examples=30)
def test_a_rendered_tree_parses_to_itself(tree: Node) -> None:
    assert without_places(parse(render(tree))) == without_places(tree)


@given(TREES)
@settings(max_examples=80, deadline=None)
def test_any_tree_computes_or_is_refused(tree: Node) -> None:
    try:
        found = Expression(render(tree)).values(TABLE)
    except RequestError as exc:
        assert "position" in exc.message
    else:
        assert len(found) == len(TABLE)


PIECES = ["a", "b", "'x'", "1", "2.5", "(", ")", ",", "and", "or", "not", "in", "is", "null", "if", "between", "=", "<"]


@given(
    st.one_of(
        st.text(max_size=40),
        st.text(alphabet="ab1'\"(),.<>=!+-*/% \n\0eE", max_size=40),
        st.lists(st.sampled_from([*PIECES, "-", "+", "%", "length", "contains", '"a"']), max_size=14).map(" ".join),
    )
)
@settings(max_examples=150, deadline=None)
def test_any_text_computes_or_is_refused(text: str) -> None:
    try:
        found = Expression(text).values(TABLE)
    except RequestError:
        return
    assert len(found) == len(TABLE)


BOOLEANS = st.one_of(st.none(), st.booleans())


def sql_and(x: bool | None, y: bool | None) -> bool | None:
    return False if x is False or y is False else None if x is None or y is None else True


@given(st.lists(st.tuples(BOOLEANS, BOOLEANS), min_size=1))
@settings(max_examples=30)
def test_logic_has_three_values(rows: list[tuple[bool | None, bool | None]]) -> None:
    table = pa.table({"x": pa.array([x for x, _ in rows], pa.bool_()), "y": pa.array([y for _, y in rows], pa.bool_())})
    assert Expression("x and y").values(table).to_pylist() == [sql_and(x, y) for x, y in rows]
    or_by_de_morgan = Expression("not (not x and not y)").values(table)
    assert Expression("x or y").values(table).equals(or_by_de_morgan)
    equal = [None if x is None or y is None else x == y for x, y in rows]
    assert Expression("x = y").values(table).to_pylist() == equal


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1))
@settings(max_examples=30)
def test_arithmetic_is_that_of_python(rows: list[tuple[int, int]]) -> None:
    table = pa.table({"x": [x for x, _ in rows], "y": [y for _, y in rows]})
    assert Expression("(x + y) * x - -y").values(table).to_pylist() == [(x + y) * x + y for x, y in rows]
    assert Expression("x / y").values(table).to_pylist() == [x / y if y else None for x, y in rows]
    remainder = [math.fmod(x, y) if y else None for x, y in rows]
    assert Expression("x % y").values(table).to_pylist() == remainder


def test_a_filter_keeps_what_is_true_and_needs_a_boolean() -> None:
    assert prepare(TABLE, {"step": "filter", "where": "a < 2"}).column("a").to_pylist() == [1, -4]
    assert len(prepare(TABLE, {"step": "filter", "where": "null"})) == 0
    with pytest.raises(RequestError, match="gives int64"):
        prepare(TABLE, {"step": "filter", "where": "a + 1"})


def test_a_derived_column_replaces_one_of_its_name_in_place() -> None:
    made = prepare(TABLE, {"step": "derive", "column": "b", "value": "a * 2"})
    assert made.column_names == TABLE.column_names
    assert made.column("b").to_pylist() == [2, 4, None, -8]


def test_expressions_name_their_columns() -> None:
    assert Expression('a + "odd name" > length(s)').columns == {"a", "odd name", "s"}
