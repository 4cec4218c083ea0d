"""What the declared schema says of each row, and what blocks add up to."""

from __future__ import annotations

import functools
import math
import operator
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.datasets.expectations import Judge, Judgement, class_codes
from lightmill.datasets.quarantine import quarantine, unreadable
from lightmill.datasets.repeats import Repeats, mark
from lightmill.datasets.sources.port import BadRow
from lightmill.datasets.verdicts import (
    DUPLICATE,
    INFINITE,
    KEPT,
    MISSING,
    NOT_ALLOWED,
    NOT_UNIQUE,
    OUT_OF_RANGE,
    PATTERN,
    REASONS,
    RULE_OF,
    TOO_LONG,
    TYPE,
    UNREADABLE,
    Finding,
    Tally,
    action_for,
    bad_rows,
    check_expectations,
    check_nulls,
    refuse,
)
from lightmill.errors import RequestError
from lightmill.records.quality import ColumnRule, ExpectSpec, RulesSpec

COLUMNS = (
    ColumnRule(name="age", dtype="float64", minimum=0, maximum=120, max_nulls=0.5),
    ColumnRule(name="count", dtype="int64", minimum=1),
    ColumnRule(name="kind", dtype="string", role="label", values=("a", "b")),
    ColumnRule(name="code", dtype="string", role="key", pattern="[A-Z]{2}[0-9]*", max_length=4),
    ColumnRule(name="mail", dtype="string", role="ignore", unique=True),
)
GOOD = {"age": "30", "count": "1", "kind": "a", "code": "AB1", "mail": "x"}


def table(*rows: dict[str, Any]) -> pa.Table:
    whole = [{**GOOD, **row} for row in rows]
    return pa.table({name: pa.array([row[name] for row in whole], type=pa.string()) for name in GOOD})


def judge(source: pa.Table, columns: tuple[ColumnRule, ...] = COLUMNS, **rules: Any) -> Judgement:
    return Judge(columns, RulesSpec(**rules)).judge(source)


def locate(row_id: int) -> tuple[str, int]:
    return "people.csv", row_id + 1


def test_a_good_row_is_kept_and_has_its_declared_types() -> None:
    found = judge(table({}))
    assert found.verdict.tolist() == [KEPT]
    assert found.column.tolist() == [-1]
    assert found.table.to_pylist() == [{"age": 30.0, "count": 1, "kind": "a", "code": "AB1", "mail": "x"}]
    assert found.kept == found.table
    assert found.tally == Tally(rows=1)


@pytest.mark.parametrize(
    ("row", "reason", "column"),
    [
        ({"age": "x"}, TYPE, "age"),
        ({"age": "1e400"}, TYPE, "age"),
        ({"age": "inf"}, INFINITE, "age"),
        ({"age": "-1"}, OUT_OF_RANGE, "age"),
        ({"age": "120.5"}, OUT_OF_RANGE, "age"),
        ({"age": "nan"}, KEPT, ""),
        ({"age": None}, KEPT, ""),
        ({"count": None}, MISSING, "count"),
        ({"count": "nan"}, MISSING, "count"),
        ({"count": "0"}, OUT_OF_RANGE, "count"),
        ({"count": "1.5"}, TYPE, "count"),
        ({"kind": "c"}, NOT_ALLOWED, "kind"),
        ({"kind": None}, MISSING, "kind"),
        ({"code": "ab"}, PATTERN, "code"),
        ({"code": "AB1\n"}, PATTERN, "code"),
        ({"code": "AB123"}, TOO_LONG, "code"),
        ({"mail": None}, KEPT, ""),
        ({"kind": None, "age": "x"}, TYPE, "age"),
        ({"age": "-1", "kind": "c"}, NOT_ALLOWED, "kind"),
        ({"age": "-1", "count": "0"}, OUT_OF_RANGE, "age"),
    ],
)
def test_every_fault_has_its_reason_and_its_column(row: dict[str, Any], reason: int, column: str) -> None:
    found = judge(table({}, row))
    assert found.verdict.tolist() == [KEPT, reason]
    names = found.table.column_names
    assert [names[index] if index >= 0 else "" for index in found.column] == ["", column]
    expected = {(reason, column): Finding(rows=1, first=1)} if reason else {}
    assert found.tally.faults == expected


def test_clipping_moves_numbers_and_mends_nothing_else() -> None:
    found = judge(
        table({"age": "-5"}, {"age": "inf"}, {"count": "-3"}, {"kind": "c"}, {"age": "x"}), out_of_range="clip"
    )
    assert found.table.column("age").to_pylist() == [0.0, 120.0, 30.0, 30.0, None]
    assert found.table.column("count").to_pylist() == [1, 1, 1, 1, 1]
    assert found.verdict.tolist() == [KEPT, KEPT, KEPT, NOT_ALLOWED, TYPE]
    assert found.tally.clipped == {"age": 2, "count": 1}
    assert action_for(NOT_ALLOWED, RulesSpec(out_of_range="clip")) == "drop"


def test_clipping_integers_stays_within_limits_that_are_no_integers() -> None:
    column = ColumnRule(name="n", dtype="int8", minimum=-1.5, maximum=2.5)
    found = judge(pa.table({"n": [-100, 100, 0]}), (column,), out_of_range="clip")
    assert found.table.column("n").to_pylist() == [-1, 2, 0]


def test_limits_of_integers_are_exact_beyond_what_floats_hold() -> None:
    column = ColumnRule(name="n", dtype="int64", minimum=2**60 + 1, maximum=2**63 + 5)
    found = judge(pa.table({"n": [2**60, 2**60 + 1, 2**63 - 1]}), (column,))
    assert found.verdict.tolist() == [OUT_OF_RANGE, KEPT, KEPT]
    wide = ColumnRule(name="n", dtype="uint64", maximum=2**64 - 2)
    table = pa.table({"n": pa.array([2**64 - 1, 2**64 - 2], pa.uint64())})
    assert judge(table, (wide,)).verdict.tolist() == [OUT_OF_RANGE, KEPT]
    assert judge(table, (wide,), out_of_range="clip").table.column("n").to_pylist() == [2**64 - 2] * 2
    with pytest.raises(RequestError, match="No int8 reaches the minimum 200 of column 'n'"):
        Judge([ColumnRule(name="n", dtype="int8", minimum=200)], RulesSpec())
    with pytest.raises(RequestError, match="No uint8 reaches the maximum -0.5"):
        Judge([ColumnRule(name="n", dtype="uint8", maximum=-0.5)], RulesSpec())


def test_limits_of_float32_are_rounded_as_its_values_are() -> None:
    column = ColumnRule(name="x", dtype="float32", minimum=-0.1, maximum=0.1)
    assert judge(pa.table({"x": [0.1, -0.1, 0.11]}), (column,)).verdict.tolist() == [KEPT, KEPT, OUT_OF_RANGE]


def test_row_ids_are_integers() -> None:
    column = ColumnRule(name="n", dtype="int64")
    found = judge(pa.table({"n": [1, 2], "row_id": [1 << 40, 5]}), (column,))
    assert found.row_id.tolist() == [1 << 40, 5]
    with pytest.raises(RequestError, match="'row_id' numbers the rows"):
        judge(pa.table({"n": [1], "row_id": ["a"]}), (column,))


def test_an_infinity_without_a_limit_on_its_side_is_no_clip() -> None:
    column = ColumnRule(name="n", dtype="float64", minimum=0)
    found = judge(pa.table({"n": [math.inf, -math.inf]}), (column,), out_of_range="clip")
    assert found.verdict.tolist() == [INFINITE, KEPT]
    free = ColumnRule(name="n", dtype="float64", finite=False)
    assert judge(pa.table({"n": [math.inf, math.nan]}), (free,)).verdict.tolist() == [KEPT, MISSING]


def test_limits_hold_for_values_of_tensors_lists_and_times() -> None:
    columns = (
        ColumnRule(name="t", dtype="tensor<float32>", shape=(2,), maximum=5),
        ColumnRule(name="l", dtype="list<int64>", minimum=0, max_length=2),
        ColumnRule(name="d", dtype="date", minimum="2020-01-01", role="time"),
    )
    day = ["2020-01-01", "2020-01-01", "2020-01-01", "2019-12-31", "2020-01-01", "2020-01-01"]
    tensors = [[1, 5], [1, 6], [1, 2], [1, 2], [math.inf, 1], None]
    lists = [[], [1], [1, -1], [1], [1, 2], [1, 2, 3]]
    found = judge(pa.table({"t": tensors, "l": lists, "d": day}), columns)
    assert found.verdict.tolist() == [KEPT, OUT_OF_RANGE, OUT_OF_RANGE, OUT_OF_RANGE, INFINITE, MISSING]
    assert found.column.tolist() == [-1, 0, 1, 2, 0, 0]


def test_labels_that_are_numbers_match_their_declared_values() -> None:
    column = ColumnRule(name="y", dtype="int64", role="label", values=(3, 1))
    found = judge(pa.table({"y": ["1", "3", "2"]}), (column,))
    assert found.verdict.tolist() == [KEPT, KEPT, NOT_ALLOWED]
    assert class_codes(found.table.column("y"), column.values or ()).tolist() == [1, 0, -1]
    assert class_codes(pa.array([True, False, None]), (True, False)).tolist() == [0, 1, -1]


# -- tables that are not as declared ------------------------------------------


def test_a_column_that_is_absent_is_refused_unless_it_is_ignored() -> None:
    with pytest.raises(RequestError, match="no column 'count' \\(nor 1 other declared ones\\); it has age, code, mail"):
        judge(table({}).drop_columns(["kind", "count"]))
    found = judge(table({}, {}).drop_columns(["mail"]))
    assert found.table.column("mail").to_pylist() == [None, None]


def test_a_column_that_is_there_twice_is_refused() -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(RequestError, match="the column 'a' twice; rename one"):
        judge(twice, (ColumnRule(name="a", dtype="int64"),))
    with pytest.raises(RequestError, match="'a' is declared twice"):
        Judge([ColumnRule(name="a", dtype="int64")] * 2, RulesSpec())


def test_declarations_that_only_values_reveal_as_wrong_are_refused_at_once() -> None:
    with pytest.raises(RequestError, match=r"values of column 'n' holds 'x', which is no int64"):
        Judge([ColumnRule(name="n", dtype="int64", values=(1, "x"))], RulesSpec())
    with pytest.raises(RequestError, match="outside RE2"):
        Judge([ColumnRule(name="s", dtype="string", pattern="(?=a)")], RulesSpec())
    with pytest.raises(RequestError, match="expect.columns names 'z'"):
        Judge(COLUMNS, RulesSpec(), ExpectSpec.model_validate({"columns": {"z": {}}}))


def test_an_empty_block_and_columns_of_nulls_are_judged() -> None:
    found = judge(table({}).slice(0, 0))
    assert found.digest.shape == (0, 2)
    assert found.verdict.size == 0
    nulls = pa.table({name: pa.nulls(2) for name in GOOD})
    assert judge(nulls).verdict.tolist() == [MISSING, MISSING]


def test_blocks_of_other_types_have_one_schema_and_equal_digests() -> None:
    columns = (ColumnRule(name="n", dtype="float64"),)
    tables = [pa.table({"n": values}) for values in (["1"], [1], [1.0], pa.array([1], pa.uint8()), [True])]
    found = [judge(source, columns) for source in tables]
    assert len({str(one.table.schema) for one in found}) == 1
    assert len({one.digest.tobytes() for one in found}) == 1


def test_a_cell_of_ten_megabytes_is_judged_as_any_other() -> None:
    big = "A" * (10 << 20)
    found = judge(table({"mail": big}, {"code": big}, {"age": big}, {"count": "9" * (1 << 20)}))
    assert found.verdict.tolist() == [KEPT, PATTERN, TYPE, TYPE]


def test_a_pattern_takes_time_in_proportion_to_the_text_only() -> None:
    column = ColumnRule(name="s", dtype="string", pattern="(a+)+b")
    assert judge(pa.table({"s": ["a" * 100_000]}), (column,)).verdict.tolist() == [PATTERN]


def test_a_judge_pickles() -> None:
    again = pickle.loads(pickle.dumps(Judge(COLUMNS, RulesSpec())))
    assert again.judge(table({}, {"kind": "c"})).verdict.tolist() == [KEPT, NOT_ALLOWED]


# -- blocks add up ------------------------------------------------------------

FEW = st.fixed_dictionaries(
    {
        "age": st.sampled_from(["1", "2", "x", "inf", "-1", None]),
        "count": st.sampled_from(["1", "0", None]),
        "kind": st.sampled_from(["a", "b", "c"]),
        "code": st.sampled_from(["AB", "ab"]),
        "mail": st.sampled_from(["x", "y", None]),
    }
)


@settings(deadline=None, max_examples=30)
@given(st.lists(FEW, min_size=1, max_size=25), st.integers(1, 6), st.randoms(use_true_random=False))
def test_the_sum_over_blocks_does_not_depend_on_their_sizes_or_order(
    rows: list[dict[str, Any]], size: int, random: Any
) -> None:
    judging = Judge(COLUMNS, RulesSpec(), ExpectSpec.model_validate({"columns": {"kind": {"shares": {"a": {}}}}}))
    source = table(*rows)
    whole = judging.judge(source)
    parts = [judging.judge(source.slice(at, size), at) for at in range(0, len(rows), size)]
    assert np.concatenate([part.verdict for part in parts]).tolist() == whole.verdict.tolist()
    assert np.concatenate([part.digest for part in parts]).tolist() == whole.digest.tolist()
    random.shuffle(parts)
    assert functools.reduce(operator.add, [part.tally for part in parts]) == whole.tally
    mails = functools.reduce(operator.add, [part.keys["mail"] for part in parts])
    assert mails.later().tolist() == whole.keys["mail"].later().tolist()
    assert sum(finding.rows for finding in whole.tally.faults.values()) == int((whole.verdict != KEPT).sum())


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 4), st.randoms(use_true_random=False))
def test_of_equal_values_the_first_stays_in_any_order_and_in_slices(
    values: list[int], slices: int, random: Any
) -> None:
    column = (ColumnRule(name="n", dtype="int64"),)
    found = judge(pa.table({"n": pa.array(values, pa.int64())}), column)
    expected = [at for at, value in enumerate(values) if value in values[:at]]
    order = list(range(len(values)))
    random.shuffle(order)
    parts = [Repeats.of(found.digest[[at]], found.row_id[[at]]) for at in order]
    assert Repeats.join(parts).later().tolist() == expected
    sliced = [Repeats.of(found.digest, found.row_id, slices=slices, index=index).later() for index in range(slices)]
    assert sorted(np.concatenate(sliced).tolist()) == expected


def test_repeated_values_are_marked_and_counted() -> None:
    found = judge(table({}, {"mail": "y"}, {}, {"mail": None}, {"mail": None}, {"mail": "y", "kind": "c"}))
    later = found.keys["mail"].later()
    assert later.tolist() == [2]
    verdict = mark(found.verdict, found.row_id, later, NOT_UNIQUE)
    assert verdict.tolist() == [KEPT, KEPT, NOT_UNIQUE, KEPT, KEPT, NOT_ALLOWED]
    tally = found.tally.with_fault(NOT_UNIQUE, later, "mail")
    assert tally.by_reason() == {"value not allowed": 1, "value not unique": 1}
    assert mark(verdict, found.row_id, np.array([1], dtype=np.int64), DUPLICATE).tolist()[1] == DUPLICATE
    assert found.tally.with_fault(DUPLICATE, np.empty(0, dtype=np.int64)) == found.tally


# -- refusals -----------------------------------------------------------------


def test_the_refusal_names_count_first_place_rule_and_remedy() -> None:
    tally = judge(table({}, {"age": "x"}, {"age": "y"}, {"kind": "c"})).tally
    with pytest.raises(RequestError) as caught:
        refuse(tally, RulesSpec(), locate)
    assert caught.value.message == (
        "2 rows have a fault (value of another type in column 'age'), first people.csv row 2, and rules.type is 'fail'"
        "; 1 row has other faults. Correct the source, or set rules.type to 'drop' or 'quarantine'."
    )
    with pytest.raises(RequestError, match=r"^1 row has a fault .*'clip' or 'quarantine'\.$"):
        refuse(tally, RulesSpec(type="drop"), locate)
    refuse(tally, RulesSpec(type="drop", out_of_range="quarantine"), locate)


@pytest.mark.parametrize("reason", list(RULE_OF))
def test_every_reason_has_a_rule_that_can_fail_drop_or_quarantine(reason: int) -> None:
    tally = Tally(rows=1, faults={(reason, ""): Finding(rows=1, first=0)})
    rule = RULE_OF[reason]
    with pytest.raises(RequestError, match=rf"rules\.{rule} is 'fail'"):
        refuse(tally, RulesSpec(), locate)
    for action in ("drop", "quarantine"):
        rules = RulesSpec.model_validate({rule: action})
        refuse(tally, rules, locate)
        verdict = np.array([KEPT, reason], dtype=np.int8)
        assert bad_rows(verdict, rules, action).tolist() == [1]
        assert bad_rows(verdict, rules, "fail").tolist() == []


def test_too_many_nulls_are_refused_over_the_whole_dataset() -> None:
    judging = Judge(COLUMNS, RulesSpec())
    assert judging.null_limits == {"age": 0.5}
    half = judging.judge(table({"age": None})).tally + judging.judge(table({})).tally
    check_nulls(half, judging.null_limits)
    more = half + judging.judge(table({"age": None})).tally
    with pytest.raises(RequestError, match=r"Column 'age' lacks 2 of 3 values \(0.6667\), and its max_nulls is 0.5"):
        check_nulls(more, judging.null_limits)
    check_nulls(Tally(), judging.null_limits)


def test_expectations_on_rows_means_and_shares() -> None:
    def check(kept: int = 4, **expect: Any) -> None:
        wanted = ExpectSpec.model_validate(expect)
        source = table(
            {"age": "10"}, {"age": "20"}, {"age": None}, {"kind": "b", "age": "30"}, {"kind": "c", "age": "99"}
        )
        check_expectations(wanted, Judge(COLUMNS, RulesSpec(), wanted).judge(source).tally, kept)

    check(rows={"minimum": 4, "maximum": 4}, columns={"age": {"mean": {"minimum": 20, "maximum": 20}}})
    check(columns={"kind": {"shares": {"a": {"minimum": 0.75}, "z": {"maximum": 0}}}})
    with pytest.raises(RequestError, match=r"keeps 3 rows; expect.rows is at least 4\."):
        check(kept=3, rows={"minimum": 4})
    with pytest.raises(RequestError, match=r"Column 'age' has mean 20; expect.columns.age.mean is at most 19\."):
        check(columns={"age": {"mean": {"maximum": 19}}})
    with pytest.raises(RequestError, match=r"Column 'kind' has shares.b 0.25; .* at least 0.5"):
        check(columns={"kind": {"shares": {"b": {"minimum": 0.5}}}})
    with pytest.raises(RequestError, match="expect.columns.kind.mean needs numbers, and the column is string"):
        check(columns={"kind": {"mean": {"minimum": 0}}})
    with pytest.raises(RequestError, match="mean nan"):
        check_expectations(ExpectSpec.model_validate({"columns": {"age": {"mean": {"minimum": 0}}}}), Tally(), 0)
    tensors = (ColumnRule(name="t", dtype="list<int8>"),)
    with pytest.raises(RequestError, match="t.shares needs single values"):
        Judge(tensors, RulesSpec(), ExpectSpec.model_validate({"columns": {"t": {"shares": {"1": {}}}}}))


# -- quarantine ---------------------------------------------------------------


def test_quarantine_keeps_what_the_source_held_with_reason_and_place() -> None:
    source = table({}, {"age": "1e400"}, {"kind": None})
    rules = RulesSpec(type="quarantine", missing="quarantine")
    found = Judge(COLUMNS, rules).judge(source, first_row=7)
    kept_aside = quarantine(source, found, bad_rows(found.verdict, rules, "quarantine"), locate)
    assert kept_aside.to_pylist() == [
        {
            "row_id": 8,
            "quarantine_reason": "value of another type",
            "quarantine_column": "age",
            "quarantine_rule": "type",
            "quarantine_source": "people.csv",
            "quarantine_row": 9,
            **GOOD,
            "age": "1e400",
        },
        {
            "row_id": 9,
            "quarantine_reason": "missing value",
            "quarantine_column": "kind",
            "quarantine_rule": "missing",
            "quarantine_source": "people.csv",
            "quarantine_row": 10,
            **GOOD,
            "kind": None,
        },
    ]


def test_quarantine_writes_any_type_as_text() -> None:
    source = pa.table(
        {
            "n": [1.5],
            "i": [2],
            "b": [b"\xff"],
            "u": pa.array([b"text"], pa.large_binary()),
            "l": [[1, None]],
            "s": [{"x": b"\xff"}],
            "z": pa.nulls(1),
            "d": pa.array([0], pa.date32()),
            "t": pa.array([0], pa.duration("s")),
            "c": pa.array(["word"]).dictionary_encode(),
            "y": ["x"],
        }
    )
    found = judge(source, (ColumnRule(name="y", dtype="int64"),))
    row = quarantine(source, found, np.array([0]), locate).to_pylist()[0]
    assert {name: row[name] for name in source.column_names} == {
        "n": "1.5",
        "i": "2",
        "b": "base64:/w==",
        "u": "text",
        "l": "[1,null]",
        "s": '{"x":"/w=="}',
        "z": None,
        "d": "1970-01-01",
        "t": row["t"],
        "c": "word",
        "y": "x",
    }
    assert row["t"] is not None


def test_quarantine_refuses_a_source_that_uses_its_names() -> None:
    source = pa.table({"quarantine_reason": ["x"], "y": ["x"]})
    found = judge(source, (ColumnRule(name="y", dtype="int64"),))
    with pytest.raises(RequestError, match="'quarantine_reason'"):
        quarantine(source, found, np.array([0]), locate)


def test_rows_that_cannot_be_read_are_kept_as_text() -> None:
    bad = BadRow(file=0, path="a.csv", row=5, reason="3 of 4 columns", text="1,2,3")
    odd = bad.model_copy(update={"file": 1, "kind": "type", "column": "n", "rest": True})
    found, other = unreadable([bad, odd]).to_pylist()
    assert (found["row_id"], found["quarantine_reason"]) == (5, REASONS[-1]) and REASONS[-1] == "unreadable"
    assert (other["row_id"], other["quarantine_rule"], other["quarantine_column"]) == ((1 << 40) + 5, "type", "n")
    assert "what follows it" in other["quarantine_why"]
    assert (found["quarantine_row"], found["quarantine_why"], found["quarantine_text"]) == (
        6,
        "3 of 4 columns",
        "1,2,3",
    )
    assert unreadable([]).num_rows == 0


def test_the_first_unreadable_row_is_refused_with_its_reason() -> None:
    found = Finding(rows=1, first=7, why="it has 4 cells") + Finding(rows=1, first=3, why="it has 2 cells")
    tally = Tally(rows=9, faults={(UNREADABLE, ""): found})
    with pytest.raises(
        RequestError, match=r"2 rows .*first people\.csv row 4 \(it has 2 cells\), and rules\.unreadable"
    ):
        refuse(tally, RulesSpec(unreadable="fail"), locate)
