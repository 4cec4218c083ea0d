"""The grammar of searches: what is written is read back, what is wrong is quoted, nothing else is raised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.records.annotations import Stage
from lightmill.records.search import (
    Comparison,
    Cursor,
    DatasetTerm,
    SearchOrder,
    SearchQuery,
    TagTerm,
    TimeTerm,
    parse_comparison,
    parse_comparisons,
    parse_cursor,
    parse_order,
    parse_query,
)

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,12}[a-z0-9])?", fullmatch=True)
ALIASES = st.from_regex(r"[a-z]([a-z0-9_-]{0,8}[a-z0-9])?", fullmatch=True)
METRICS = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_./-]{0,12}[A-Za-z0-9_])?", fullmatch=True)
OPS = st.sampled_from([">=", "<=", ">", "<", "=", "!="])
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.datetimes().map(lambda t: t.isoformat(timespec="milliseconds") + "Z")
QUERIES = st.builds(
    SearchQuery,
    names=st.lists(NAMES, max_size=2).map(tuple),
    tags=st.lists(st.builds(TagTerm, key=NAMES, value=st.none() | st.text(min_size=0, max_size=20)), max_size=3).map(
        tuple
    ),
    stages=st.lists(st.sampled_from(Stage), max_size=2).map(tuple),
    aliases=st.lists(ALIASES, max_size=2).map(tuple),
    datasets=st.lists(
        st.builds(DatasetTerm, name=NAMES, seq=st.none() | st.integers(1, 9_999_999_999)), max_size=2
    ).map(tuple),
    metrics=st.lists(st.builds(Comparison, metric=METRICS, op=OPS, value=NUMBERS), max_size=3).map(tuple),
    created=st.lists(st.builds(TimeTerm, op=st.sampled_from([">=", "<=", ">", "<"]), value=TIMES), max_size=2).map(
        tuple
    ),
)


@given(QUERIES)
def test_a_query_reads_back_as_it_was_written(query: SearchQuery) -> None:
    assert parse_query(str(query)) == query


@given(st.text(max_size=60) | st.text('tag:=<>!"\\ metrics.createdstage@0-9ab', max_size=60))
def test_any_text_is_a_query_or_refused(text: str) -> None:
    try:
        query = parse_query(text)
    except RequestError:
        return
    assert parse_query(str(query)) == query


def test_the_terms_may_be_mixed_and_spaced() -> None:
    query = parse_query(
        '  digits metrics.test_accuracy >= 0.96 tag:team="vision lab" tag:gpu stage:production '
        "created>=2026-01-01 created<=2026-01-31 dataset:rows@3 name:v2 alias:champion metrics.loss<1e-3 "
    )
    assert query == SearchQuery(
        names=("digits", "v2"),
        tags=(TagTerm(key="team", value="vision lab"), TagTerm(key="gpu")),
        stages=(Stage.PRODUCTION,),
        aliases=("champion",),
        datasets=(DatasetTerm(name="rows", seq=3),),
        metrics=(
            Comparison(metric="test_accuracy", op=">=", value=0.96),
            Comparison(metric="loss", op="<", value=0.001),
        ),
        created=(
            TimeTerm(op=">=", value="2026-01-01T00:00:00.000Z"),
            TimeTerm(op="<=", value="2026-01-31T23:59:59.999Z"),
        ),
    )
    assert parse_query("") == parse_query("  ") == SearchQuery()


@pytest.mark.parametrize(
    "text",
    [
        "stage:prod",
        "tag:",
        "tag:Team=x",
        'tag:team="open',
        "metrics.x>=high",
        "metrics.x>=nan",
        "metrics.x",
        "metrics.x>=1e999",
        "created>=yesterday",
        "created=2026-01-01",
        "created>=0001-01-01T00:00:00+23:59",
        "dataset:rows@0",
        "dataset:rows@latest",
        "alias:Champion",
        "colour:red",
        "Digits",
        "a*b",
        "';DROP TABLE versions",
        "x" * 5000,
    ],
)
def test_what_is_no_term_is_refused_with_its_words(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_query(text)
    quoted = text.split()[0]
    assert repr(quoted) in caught.value.message or str(len(text)) in caught.value.message


@given(st.floats(-10, 10), st.floats(-10, 10))
def test_comparisons_hold_as_python_compares(found: float, wanted: float) -> None:
    expected = {">=": found >= wanted, "<=": found <= wanted, ">": found > wanted, "<": found < wanted}
    expected |= {"=": found == wanted, "!=": found != wanted}
    for op, holds in expected.items():
        condition = parse_comparison(f"m {op} {wanted!r}")
        assert condition.holds({"m": found}) is holds
        assert condition.holds({"other": found}) is False


def test_conditions_are_separated_by_commas() -> None:
    assert [str(c) for c in parse_comparisons(" test_accuracy>=0.9, metrics.loss < 0.3 ,")] == [
        "test_accuracy>=0.9",
        "loss<0.3",
    ]
    assert parse_comparisons("") == ()
    with pytest.raises(RequestError, match="accuracy"):
        parse_comparisons("accuracy")


def test_orders_and_pages_are_read_or_refused() -> None:
    assert parse_order("-created") == SearchOrder()
    assert parse_order("metrics.loss") == SearchOrder(key="metrics.loss", descending=False)
    for text in ("", "-", "colour", "metrics.", "--created"):
        with pytest.raises(RequestError):
            parse_order(text)
    for value in ("2026", 0.1, 7):
        cursor = Cursor(value=value, mid="m", seq=3)
        assert parse_cursor(str(cursor)) == cursor
    for text in ("x", "e30", "W10", "ä"):
        with pytest.raises(RequestError):
            parse_cursor(text)
