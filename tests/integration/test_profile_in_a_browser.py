"""The page of a profile in a real Chromium: nothing fetched, nothing run, everything drawn and within the screen."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightmill.datasets.profile_page import profile_page
from lightmill.records.profile import ProfileRecord
from tests.profiles import few, hostile, people, wide

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium")
SCREENS = {"desk": (1280, 900), "phone": (390, 844)}
RECORDS: dict[str, Callable[[], ProfileRecord]] = {
    "people": people,
    "hostile names": hostile,
    "200 columns": wide,
    "no rows": lambda: few(0),
    "one row": lambda: few(1),
}
SECTIONS = {
    "people": ["Summary", "Missing values", "All columns", "Class balance", "Correlations", "Images", "Columns"],
    "hostile names": ["Summary", "Missing values", "All columns", "Class balance", "Correlations", "Columns"],
    "200 columns": ["Summary", "Missing values", "All columns", "Correlations", "Columns"],
    "no rows": ["Summary", "Missing values", "All columns", "Class balance", "Correlations", "Columns"],
    "one row": ["Summary", "Missing values", "All columns", "Class balance", "Correlations", "Columns"],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (make extras)")
    if CHROMIUM is None:
        print("skipping the browser: there is no chromium; apt-get install chromium")
        pytest.skip("there is no chromium on this machine; apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", RECORDS)
def test_the_page_opens_whole_and_alone(browser: Any, tmp_path: Path, name: str, screen: str, scheme: str) -> None:
    record = RECORDS[name]()
    path = tmp_path / "profile.html"
    path.write_text(profile_page(record), encoding="utf-8")
    width, height = SCREENS[screen]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")

    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert page.title() == f"Profile of {record.name}"
    labels = page.evaluate("[...document.querySelectorAll('section')].map(one => one.getAttribute('aria-label'))")
    assert labels == SECTIONS[name]
    hidden = page.evaluate(
        "[...document.querySelectorAll('section, svg, table, img, h1, h2, h3')].filter(one => !one.checkVisibility()"
        " || one.getBoundingClientRect().height <= 0).length"
    )
    assert hidden == 0
    across = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert across[0] <= across[1], "the page is wider than the screen"
    drawn = page.evaluate("[...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().width)")
    assert all(0 < found <= width for found in drawn)
    loaded = page.evaluate("[...document.querySelectorAll('img')].map(image => image.complete && image.naturalWidth)")
    assert loaded == [28] * len(record.thumbnails)
    assert_contrast(page)
    page.screenshot(path=str(tmp_path / "page.png"))
    page.close()


def assert_contrast(page: Any) -> None:
    """Text stands out by 4.5 to 1, as WCAG 2.2, 1.4.3 asks."""
    colours = page.evaluate(
        """() => { const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
        const back = rgb(getComputedStyle(document.querySelector('.lm-profile')).backgroundColor);
        return [back, ...['.lm-profile', '.soft', 'caption', 'th'].map(at => document.querySelector(at))
            .filter(found => found).map(found => rgb(getComputedStyle(found).color))]; }"""
    )

    def luminance(colour: list[float]) -> float:
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    back = luminance(colours[0])
    for colour in colours[1:]:
        low, high = sorted((back, luminance(colour)))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_every_picture_that_a_profile_promises_is_drawn(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "profile.html"
    path.write_text(profile_page(people()), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(path.as_uri())
    bars = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('svg')].map("
        "one => [one.getAttribute('aria-label'), one.querySelectorAll('rect').length]))"
    )
    page.close()
    assert bars["Share of missing values by column"] == 2
    assert bars["Rows of each class of buys, by split"] == 9
    assert bars["Correlations of numeric columns"] == 25
    assert all(bars[f"Histogram of {name}, values"] >= 10 for name in ("age", "income", "height", "weight", "visits"))
    assert bars["Histogram of note, lengths"] >= 10
    assert bars["Most frequent values of land"] == 5
    assert not any("mail" in str(title) for title in bars)


def test_the_page_is_readable_within_the_frame_of_a_notebook(browser: Any, tmp_path: Path) -> None:
    from lightmill.sdk.profiles import ProfileView

    view = ProfileView(record=people(60), page=profile_page(people(60)))
    path = tmp_path / "cell.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{view._repr_html_()}</body>")
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    frame = page.frames[1]
    assert frame.locator("h1").inner_text() == "Profile of people" and frame.locator("svg").count() > 8
    assert frame.evaluate("document.querySelector('img').naturalWidth") == 28
    assert page.locator("iframe").get_attribute("sandbox") == "" and said == []
    page.close()
