"""The page of a profile: self-contained, escaped, readable by ear."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.datasets.drawing import escaped, number, percent
from lightmill.datasets.profile_page import profile_fragment, profile_page
from lightmill.datasets.profiling import Profiler
from lightmill.records.profile import ColumnSummary, ProfileRecord, Thumbnail
from lightmill.records.quality import ColumnRule

ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</style><script>1</script>",
    "&lt;b&gt;",
    "a\0b",
    "javascript:alert(1)",
)
ALLOWED = {
    *("html", "head", "meta", "title", "body", "main", "style", "h1", "h2", "h3", "section", "article", "p", "div"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "svg", "rect", "line", "text", "details", "summary"),
    *("span", "img"),
}
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Checks that tags nest, and collects them, their attributes and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def profile(name: str = "d", texts: list[str] | None = None, column: str = "kind") -> ProfileRecord:
    texts = texts or ["a", "b", "a"]
    columns = (
        ColumnRule(name=column, dtype="string", role="label"),
        ColumnRule(name="x", dtype="float64", max_nulls=1.0),
        ColumnRule(name="n", dtype="int64"),
        ColumnRule(name="mail", dtype="string", tags=("email", name)),
        ColumnRule(name="grey", dtype="tensor<uint8>", shape=(2, 2), role="image"),
    )
    rows = len(texts)
    table = pa.table(
        {
            column: texts,
            "x": [None, *np.linspace(0, 1, rows - 1)],
            "n": np.arange(rows),
            "mail": [f"secret{row}@x.org" for row in range(rows)],
            "grey": pa.array([[0, 1, 2, 3]] * rows, type=pa.list_(pa.uint8(), 4)),
        }
    )
    profiler = Profiler(columns)
    split = (np.arange(rows) % 3).astype(np.int8)
    return profiler.finish(profiler.of(table, np.arange(rows), split), name)


def check(page: str) -> Page:
    found = Page(page)
    assert {tag for tag, _ in found.tags} <= ALLOWED
    for _, attributes in found.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert set(attributes) & {"href", "srcset", "action", "formaction"} == set()
    return found


def test_the_page_needs_nothing_else_and_forbids_scripts() -> None:
    page = profile_page(profile())
    found = check(page)
    assert "default-src 'none'; img-src data:" in page
    assert not re.search(r"(https?:)?//|url\(|@import", page)
    assert all(str(a["src"]).startswith("data:image/png;base64,") for tag, a in found.tags if tag == "img")
    assert "prefers-color-scheme:dark" in page
    assert ("html", {"lang": "en"}) in found.tags


def test_every_picture_has_words_and_every_plot_a_table() -> None:
    found = check(profile_page(profile()))
    pictures = [attributes for tag, attributes in found.tags if tag == "svg"]
    assert len(pictures) >= 5
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in pictures)
    assert all(attributes["alt"] for tag, attributes in found.tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in found.tags if tag == "section")
    tags = [tag for tag, _ in found.tags]
    assert tags.count("table") >= len(pictures)
    assert tags.count("table") == tags.count("caption")
    assert all(attributes.get("scope") for tag, attributes in found.tags if tag == "th")


@pytest.mark.parametrize("attack", ATTACKS)
def test_names_and_values_are_shown_and_never_run(attack: str) -> None:
    record = profile(name=attack, texts=[attack, "b", attack], column=attack)
    found = check(profile_page(record))
    assert attack.replace("\0", "\ufffd") in found.text
    assert "<script" not in profile_fragment(record)


@settings(deadline=None, max_examples=30)
@given(st.text(min_size=1, max_size=30), st.lists(st.text(max_size=12), min_size=2, max_size=6))
def test_any_text_nests_well(name: str, values: list[str]) -> None:
    try:
        ColumnRule(name=name, dtype="string")
    except ValueError:
        return
    if name in ("x", "n", "mail", "grey"):
        return
    check(profile_page(profile(name, values, name)))


def test_personal_values_are_nowhere_on_the_page() -> None:
    page = profile_page(profile())
    assert "secret" not in page
    assert "Personal (email, d): values are counted and not shown." in page


def test_a_picture_that_is_no_data_uri_is_left_out() -> None:
    wrong = (
        "https://x.org/a.png",
        "data:text/html;base64,AAAA",
        'data:image/png;base64,AA" onload="x',
        "data:image/svg+xml;base64,AA",
    )
    record = ProfileRecord(
        name="d", rows_in=1, rows=1, thumbnails=tuple(Thumbnail(column="c", row_id=0, uri=uri) for uri in wrong)
    )
    assert [tag for tag, _ in check(profile_page(record)).tags if tag == "img"] == []


def test_an_empty_profile_and_one_of_many_columns_are_pages() -> None:
    check(profile_page(ProfileRecord(name="d", rows_in=0, rows=0)))
    columns = tuple(ColumnSummary(name=f"c{n}", dtype="int64", role="feature", count=1, nulls=0) for n in range(250))
    page = profile_page(ProfileRecord(name="d", rows_in=1, rows=1, columns=columns))
    found = check(page)
    assert "50 more columns are in the table above only." in found.text
    assert sum(tag == "details" for tag, _ in found.tags) == 200 and "<article>" not in page


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (3, "3"), (1234567.0, "1,234,567"), (0.1234567, "0.123457"), (1e300, "1e+300")]
)
def test_numbers_are_short(value: Any, text: str) -> None:
    assert number(value) == text


def test_shares_and_escapes() -> None:
    assert percent(1, 3) == "33.3 %"
    assert percent(0, 0) == "-"
    assert escaped("<&\"'\x00\ud800>") == "&lt;&amp;&quot;&#x27;\ufffd\ufffd&gt;"
