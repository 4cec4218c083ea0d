"""The masker over tables: which rule decides, every Arrow type, counts, joins, blocks."""

from __future__ import annotations

import copy
import pickle
import random
from datetime import date
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.masking import Masker
from lightmill.masking.keys import MaskingKey
from tests.unit.masking.examples import KEY, MAKERS, REDACT_ALL, policy

MAILS = ["a@b.de", None, "x", "c@d.fr and a@b.de"]


def apply(table: pa.Table, *rules: dict[str, object], key: bytes | None = KEY, **options: object):
    return Masker(policy(*rules), key, **options).apply(table)  # pyright: ignore[reportArgumentType]


def counts(report: object) -> dict[tuple[str, str | None, str], int]:
    return {(c.column, c.detector, c.action): c.values for c in report.counts}  # pyright: ignore


def test_actions_on_whole_columns() -> None:
    table = pa.table({"m": ["jane.doe@example.com", None, "4111-1111"], "n": [12345678, None, 5], "u": [1.0, 2.0, 3.0]})
    expected = {
        "keep": (table["m"].to_pylist(), table["n"].to_pylist()),
        "redact": (["[m]", None, "[m]"], [None, None, None]),
        "partial": (["****.***@example.com", None, "****-1111"], ["****5678", None, "*"]),
    }
    for action, (texts, numbers) in expected.items():
        masked, report = apply(table, {"columns": ["m", "n"], "action": action})
        assert (masked["m"].to_pylist(), masked["n"].to_pylist()) == (texts, numbers)
        assert masked["u"].equals(table["u"])
        assert counts(report) == ({} if action == "keep" else {("m", None, action): 2, ("n", None, action): 2})
    dropped, report = apply(table, {"columns": ["m"], "action": "drop"})
    assert dropped.column_names == ["n", "u"] and report.rows == 3


def test_pseudonyms_join_and_domains_do_not_meet() -> None:
    staff = pa.table({"id": [1, 2, 3], "mail": ["a@b.de", "c@d.fr", "e@f.it"]})
    sales = pa.table({"seller": ["e@f.it", "a@b.de", "a@b.de"]})
    rule = {"action": "pseudonym", "domain": "person"}
    masked, _ = apply(staff, {"columns": ["mail"], **rule})
    other, _ = apply(sales, {"columns": ["seller"], **rule}, {"columns": ["seller"], "action": "drop"})
    by_name = dict(zip(masked["mail"].to_pylist(), [1, 2, 3], strict=True))
    assert [by_name[name] for name in other["seller"].to_pylist()] == [3, 1, 1]
    assert all(len(name) == 26 and set(name) <= set("abcdefghijklmnopqrstuvwxyz234567") for name in by_name)
    apart, _ = apply(sales, {"columns": ["seller"], "action": "pseudonym"})
    assert not set(apart["seller"].to_pylist()) & set(by_name)
    foreign = Masker(policy({"columns": ["mail"], **rule}), bytes(32)).apply(staff)[0]
    renamed = Masker(policy({"columns": ["mail"], **rule}, name="other"), KEY).apply(staff)[0]
    assert not {*foreign["mail"].to_pylist(), *renamed["mail"].to_pylist()} & set(by_name)
    numbers, _ = apply(staff, {"columns": ["id"], "action": "pseudonym"})
    assert numbers.schema.field("id").type == pa.string() and len(set(numbers["id"].to_pylist())) == 3


def test_found_identifiers_join_whatever_their_spelling() -> None:
    masker = Masker(policy({"detectors": ["all"], "action": "pseudonym"}), KEY)
    rng = random.Random(1)
    for kind in ("card", "iban", "us_ssn", "email", "es_dni"):
        spellings = MAKERS[kind](rng)
        assert len({masker.text(f"ssn {spelling}") for spelling in spellings}) == 1, kind


def test_tokens_keep_their_format() -> None:
    table = pa.table({"c": ["4111 1111 1111 1111"], "n": pa.array([1234567890], pa.int32()), "t": ["Ab-1234567"]})
    masked, _ = apply(table, {"columns": ["c"], "action": "token", "luhn": True}, {"columns": ["*"], "action": "token"})
    assert masked.schema == table.schema
    card, number, text = (masked[name][0].as_py() for name in "cnt")
    assert card[4] == card[9] == card[14] == " " and card != "4111 1111 1111 1111"
    assert len(str(number)) == 10 and number != 1234567890
    assert text[0].isupper() and text[1].islower() and text[2] == "-" and text[3:].isdigit()
    in_text = Masker(policy({"detectors": ["card"], "action": "token", "luhn": True}), KEY).text(
        "card 4111111111111111."
    )
    assert in_text.startswith("card ") and len(in_text) == 22 and "4111111111111111" not in in_text


def test_the_first_rule_that_fits_decides() -> None:
    table = pa.table(
        {"note": ["a@b.de 203.0.113.7"], "log": ["a@b.de 203.0.113.7"], "mail": ["a@b.de"], "url": ["a@b.de"]}
    )
    masked, report = apply(
        table,
        {"columns": ["url"], "action": "keep"},
        {"columns": ["log"], "detectors": ["ip"], "action": "keep"},
        {"tags": ["email"], "action": "pseudonym"},
        {"columns": ["*"], "detectors": ["email"], "action": "partial"},
        {"detectors": ["all"], "action": "redact"},
        tags={"mail": ["contact", "email"]},
    )
    row = masked.to_pylist()[0]
    assert row["note"] == "*@b.de [ipv4]" and row["log"] == "*@b.de 203.0.113.7" and row["url"] == "a@b.de"
    assert len(row["mail"]) == 26
    assert counts(report) == {
        ("log", "email", "partial"): 1,
        ("mail", None, "pseudonym"): 1,
        ("note", "email", "partial"): 1,
        ("note", "ipv4", "redact"): 1,
    }
    tagged, _ = apply(table.select(["mail"]), {"tags": ["email"], "action": "redact"}, tags={"mail": ["email"]})
    assert tagged["mail"].to_pylist() == ["[email]"]


def test_every_place_where_text_can_stand() -> None:
    strings = pa.array(MAILS)
    person = pa.struct([("mail", pa.string()), ("age", pa.int64())])
    text_by_text = pa.map_(pa.string(), pa.string())
    table = pa.table({
        "plain": strings,
        "large": strings.cast(pa.large_string()),
        "view": strings.cast(pa.string_view()),
        "dictionary": strings.dictionary_encode(),
        "list": pa.array([["a@b.de", None], None, [], ["x", "c@d.fr"]]),
        "large_list": pa.array([["a@b.de"], None, [], ["x"]], pa.large_list(pa.string())),
        "fixed": pa.array([["a@b.de", "x"], None, ["x", "y"], ["x", "y"]], pa.list_(pa.string(), 2)),
        "person": pa.array([{"mail": "a@b.de", "age": 1}, None, {"mail": None, "age": 3}, {"age": 4}], person),
        "map": pa.array([[("a@b.de", "x")], None, [], [("k", "c@d.fr"), ("l", None)]], text_by_text),
        "tensor": pa.array([[1.0, 2.0]] * 4, pa.list_(pa.float32(), 2)),
        "bytes": pa.array([b"x"] * 4),
        "number": pa.array([1.5, None, 2.5, 3.5]),
        "ids": pa.array([[1, 2], None, [], [3]]),
    })  # fmt: skip
    for piece in (table, table.slice(1), pa.concat_tables([table.slice(0, 2), table.slice(2)])):
        masked, report = Masker(REDACT_ALL).apply(piece)
        masked.validate(full=True)
        assert "@b" not in str(masked.to_pylist()) and "@d" not in str(masked.to_pylist())
        for name in ("tensor", "bytes", "number", "ids"):
            assert masked[name].equals(piece[name])
        assert [row["list"] is None for row in masked.to_pylist()] == [row["list"] is None for row in piece.to_pylist()]
    masked, report = Masker(REDACT_ALL).apply(table)
    rows = masked.to_pylist()
    assert rows[0]["list"] == ["[email]", None] and rows[0]["fixed"] == ["[email]", "x"]
    assert rows[0]["person"] == {"mail": "[email]", "age": 1} and rows[0]["map"] == [("[email]", "x")]
    assert rows[3]["plain"] == rows[3]["view"] == rows[3]["dictionary"] == "[email] and [email]"
    assert counts(report)["plain", "email", "redact"] == 3 and counts(report)["map.value", "email", "redact"] == 1
    assert Masker(REDACT_ALL).schema(table.schema) == masked.schema
    dropped, _ = apply(table, {"columns": ["person.mail", "map"], "action": "drop"})
    assert dropped["person"].to_pylist()[0] == {"age": 1} and "map" not in dropped.column_names
    gone, _ = apply(table, {"columns": ["person.mail", "person.age"], "action": "drop"})
    assert "person" not in gone.column_names
    redacted, _ = apply(table, {"columns": ["*"], "action": "redact"}, {"columns": ["map"], "action": "keep"})
    assert set(map(str, redacted["bytes"].to_pylist())) == {"None"}


def test_whole_numbers_are_looked_at_where_the_name_or_a_rule_says_so() -> None:
    card = 4111111111111111
    table = pa.table({"card_number": [card, 5], "order": [card, 5]})
    masked, report = apply(table, {"detectors": ["all"], "action": "redact"})
    assert masked.to_pydict() == {"card_number": [None, 5], "order": [card, 5]}
    assert counts(report) == {("card_number", "card", "null"): 1}
    masked, _ = apply(table, {"columns": ["order"], "detectors": ["card"], "action": "token"})
    assert masked.to_pydict() == {"card_number": [card, 5], "order": [None, 5]}
    tagged, _ = apply(table, {"detectors": ["all"], "action": "redact"}, tags={"order": ["credit_card"]})
    assert tagged["order"].to_pylist() == [None, 5]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(["a@b.de", "x", None, "4111111111111111", "ssn 078051120"]), max_size=20),
    st.integers(1, 5),
)
def test_blocks_do_not_matter(values: list[str | None], size: int) -> None:
    table = pa.table({"t": pa.array(values, pa.string()), "n": pa.array(range(len(values)), pa.int64())})
    masker = Masker(
        policy(
            {"columns": ["n"], "action": "noise", "epsilon": 1, "sensitivity": 1},
            {"detectors": ["all"], "action": "pseudonym"},
        ),
        KEY,
    )
    ids = np.arange(len(values)) * 7
    whole, report = masker.apply(table, ids)
    pieces = [masker.apply(table.slice(at, size), ids[at : at + size]) for at in range(0, len(values), size)]
    if pieces:
        assert pa.concat_tables([piece for piece, _ in pieces]).equals(whole)
        total = pieces[0][1]
        for _, one in pieces[1:]:
            total += one
        assert total == report
    assert masker.schema(table.schema) == whole.schema
    redact = Masker(REDACT_ALL)
    once = redact.apply(table)[0]
    twice, nothing = redact.apply(once)
    assert twice.equals(once) and nothing.counts == ()


def test_types_that_an_action_cannot_treat_are_refused() -> None:
    table = pa.table({"f": [1.5], "d": [date(2024, 1, 2)], "m": [Decimal("1.50")], "l": [[1]]})
    for action in ("partial", "pseudonym", "token"):
        with pytest.raises(RequestError, match=f"column 'f': {action} needs text.*but the column is double; change"):
            apply(table, {"columns": ["f"], "action": action})
    masked, _ = apply(table, {"columns": ["d", "m"], "action": "pseudonym"})
    assert len(masked["d"][0].as_py()) == len(masked["m"][0].as_py()) == 26
    with pytest.raises(RequestError, match="noise inside lists is not possible"):
        apply(table, {"columns": ["l"], "action": "noise", "epsilon": 1, "sensitivity": 1})


def test_a_map_cannot_lose_a_side() -> None:
    table = pa.table({"m": pa.array([[(1, "x")]], pa.map_(pa.int64(), pa.string()))})
    for rule in ({"columns": ["m.value"], "action": "drop"}, {"columns": ["m.key"], "action": "redact"}):
        with pytest.raises(RequestError, match="keys of a map cannot be null"):
            apply(table, rule)


def test_bad_tables_are_refused() -> None:
    with pytest.raises(RequestError, match=r"rules.0.columns names \['emial'\], which the data does not have.*correct"):
        apply(pa.table({"email": ["x"]}), {"columns": ["emial"], "action": "drop"})
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["x", "x"])
    with pytest.raises(RequestError, match=r"\['x'\] stand twice; rename"):
        Masker(REDACT_ALL).apply(twice)
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\7\0\0\0"), pa.py_buffer(b"a@b.de\xff")]
    )
    with pytest.raises(RequestError, match="column 't': a text is not valid UTF-8") as caught:
        Masker(REDACT_ALL).apply(pa.table({"t": broken}))
    assert "a@b" not in str(caught.value) and caught.value.__cause__ is None


def test_empty_tables_and_a_ten_megabyte_cell() -> None:
    table = pa.table({"t": pa.array([], pa.string()), "n": pa.array([], pa.null())})
    masked, report = Masker(REDACT_ALL).apply(table)
    assert masked.schema == table.schema and report.counts == () and report.rows == 0
    cell = "lorem ipsum " * 870_000 + "a@b.de"
    masked, _ = Masker(REDACT_ALL).apply(pa.table({"t": [cell]}))
    assert masked["t"][0].as_py() == cell.replace("a@b.de", "[email]")


def test_metadata_and_order_of_columns_stay() -> None:
    schema = pa.schema([pa.field("b", pa.string(), metadata={"k": "v"}), pa.field("a", pa.int64())], {"table": "x"})
    masked, _ = Masker(REDACT_ALL).apply(pa.table({"b": ["a@b.de"], "a": [1]}, schema=schema))
    assert masked.schema.equals(schema, check_metadata=True)


def test_the_key_is_needed_long_and_hidden() -> None:
    keyed = policy({"columns": ["x"], "action": "pseudonym"})
    with pytest.raises(RequestError, match="which need a key; give one of at least 32 bytes"):
        Masker(keyed)
    with pytest.raises(RequestError, match="at least 32 bytes, this one has 5"):
        Masker(keyed, b"short")
    secret = b"do not show this secret key to anybody"
    masker = Masker(keyed, secret)
    shown = repr(masker) + str(masker) + repr(vars(masker)) + repr(masker._columns.key)
    assert "secret" not in shown and secret.hex() not in shown
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        for holder in (masker._key, masker) if attempt is not copy.copy else (masker._key,):
            with pytest.raises(TypeError, match="does not pickle or copy"):
                attempt(holder)  # pyright: ignore[reportArgumentType]
    assert repr(MaskingKey(secret, "p")) == "MaskingKey(hidden)"


def test_the_fingerprint_tells_policies_keys_and_tags_apart() -> None:
    one, two = policy({"columns": ["x"], "action": "pseudonym"}), policy({"columns": ["x"], "action": "token"})
    prints = [
        Masker(one, KEY).fingerprint,
        Masker(two, KEY).fingerprint,
        Masker(one, bytes(32)).fingerprint,
        Masker(one, KEY, tags={"x": ["email"]}).fingerprint,
        Masker(one.model_copy(update={"version": 2}), KEY).fingerprint,
    ]
    assert len(set(prints)) == 5 and all(len(found) == 64 for found in prints)
    assert Masker(one, KEY).fingerprint == prints[0]
    assert Masker(REDACT_ALL, KEY).fingerprint == Masker(REDACT_ALL).fingerprint


def test_labels_of_keys_cannot_be_mistaken_for_each_other() -> None:
    key = MaskingKey(KEY, "p")
    derived = [key.derive("a", "bc"), key.derive("ab", "c"), key.derive("abc"), key.derive("a", "b", "c")]
    assert len(set(derived)) == 4
    assert MaskingKey(KEY, "q").derive("abc") != key.derive("abc")
