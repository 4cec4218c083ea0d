"""The show of the issue: 1,000 seeded identifiers of ten kinds in CSV, JSON and free text; none is left."""

from __future__ import annotations

import io
import json
import random
import re

import pyarrow as pa
import pyarrow.csv
import pytest

from lightmill.masking import Masker
from tests.conftest import Tally
from tests.unit.masking.examples import KEY, MAKERS, REDACT_ALL, SAID, policy

TEN_KINDS = (
    "email", "phone", "card", "iban", "us_ssn", "de_tax_id", "es_dni", "nl_bsn", "br_cpf", "pl_pesel",
)  # fmt: skip
FREE = (
    "Please note: {said} {value}, as discussed on 2024-05-17.",
    "{said}: {value}",
    "customer 17 ({said} {value}) called; {said} {value}.",
    "He wrote\n{said}={value}\tand left",
    '"{said}","{value}"',
)


def identifiers() -> list[tuple[str, list[str]]]:
    rng = random.Random(20261122)
    return [(kind, MAKERS[kind](rng)) for kind in TEN_KINDS for _ in range(100)]


def core(text: str) -> str:
    return re.sub(r"[^0-9a-z]", "", text.lower().replace("%40", "@"))


def leaks(spellings: list[str], text: str) -> bool:
    """Whether a spelling, or its letters and digits alone, stands in a text with or without its separators."""
    lower, letters = text.lower(), core(text)
    return any(spelling.lower() in lower or core(spelling) in letters for spelling in spellings)


def columns_of(found: list[tuple[str, list[str]]]) -> pa.Table:
    """One row for each identifier: a CSV column of its own name, free text, and JSON text in several shapes."""
    rng = random.Random(7)
    rows = []
    for number, (kind, spellings) in enumerate(found):
        spelling = spellings[number % len(spellings)]
        said = SAID[kind]
        inner = json.dumps({said.lower(): spelling, "more": [number, {"note": f"{said} {spelling}"}]})
        shapes = (
            inner,
            json.dumps({"payload": inner, "n": number}),
            "".join(f"\\u{ord(character):04x}" for character in spelling).join(('{"' + said + '": "', '"}')),
            json.dumps([[said, f"{said} {spelling}"]], indent=1),
        )
        rows.append((kind, spelling, rng.choice(FREE).format(said=said, value=spelling), shapes[number % len(shapes)]))
    return pa.table(
        {
            **{SAID[kind].lower(): [row[1] if row[0] == kind else "" for row in rows] for kind in TEN_KINDS},
            "note": [row[2] for row in rows],
            "doc": [row[3] for row in rows],
        }
    )


@pytest.mark.parametrize(
    "rule",
    [
        {"action": "redact"},
        {"action": "pseudonym"},
        {"action": "partial", "keep_last": 2, "keep_domain": False},
        {"action": "token"},
    ],
    ids=lambda rule: rule["action"],
)
def test_none_of_a_thousand_identifiers_is_left(rule: dict[str, object], tally: Tally) -> None:
    found = identifiers()
    assert len(found) == 1000 and len({core(spellings[0]) for _, spellings in found}) == 1000
    written = io.BytesIO()
    source = columns_of(found)
    pyarrow.csv.write_csv(source, written)
    text = pyarrow.csv.ConvertOptions(column_types={name: pa.string() for name in source.column_names})
    table = pyarrow.csv.read_csv(io.BytesIO(written.getvalue()), convert_options=text,
                                 parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True))  # fmt: skip
    assert table.num_rows == 1000
    before = core(json.dumps(table.to_pylist(), ensure_ascii=False))
    masked, report = Masker(policy({"detectors": ["all"], **rule}), KEY).apply(table)
    rows = masked.to_pylist()
    left = []
    for number, (kind, spellings) in enumerate(found):
        assert any(core(spelling) in before for spelling in spellings)
        row = "\n".join(value for value in rows[number].values() if value)
        decoded = row + json.dumps(json.loads(rows[number]["doc"]), ensure_ascii=False)
        if leaks(spellings, decoded):
            left.append((kind, row))
    assert left == []
    said = core(report.model_dump_json() + repr(report))
    assert not any(core(spelling) in said for _, spellings in found for spelling in spellings)
    treated = {count.detector: 0 for count in report.counts}
    for count in report.counts:
        treated[count.detector] += count.values
    assert all(treated[kind] >= 100 for kind in TEN_KINDS), treated
    tally("seeded identifiers masked (1,000 by each of four actions)", len(found))


def test_the_types_that_a_csv_reader_infers_leave_none_either() -> None:
    """Columns of digits alone become int64; the column's name tells what they are."""
    found = [
        item for item in identifiers() if item[0] in ("card", "us_ssn", "nl_bsn", "de_tax_id", "br_cpf", "pl_pesel")
    ]
    for kind in {kind for kind, _ in found}:
        numbers = [int(core(spellings[0])) for name, spellings in found if name == kind]
        strong = [
            number for number in numbers if len(str(number)) == len(core(next(s[0] for k, s in found if k == kind)))
        ]
        table = pa.table({SAID[kind].lower(): pa.array(strong, pa.uint64() if kind == "card" else pa.int64())})
        masked, _ = Masker(REDACT_ALL).apply(table)
        assert masked.schema == table.schema
        assert masked.column(0).null_count == len(strong), kind


def test_every_kind_is_found_in_every_spelling() -> None:
    rng = random.Random(5)
    masker = Masker(REDACT_ALL)
    for kind, maker in MAKERS.items():
        for _ in range(60):
            spellings = maker(rng)
            for spelling in spellings:
                text = f"{SAID.get(kind, 'value')} {spelling} end"
                assert not leaks([spelling], masker.text(text)), (kind, spelling, masker.text(text))
