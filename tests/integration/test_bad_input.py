"""Every kind of bad input through the whole of ingestion: a clear error, or rows kept aside and all others exactly."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightmill.datasets.sources.port import ROW_BITS
from lightmill.errors import RequestError
from tests.bad_inputs import CASES, COLUMNS, RULES, Case, gzip_truncated, noisy, png_bomb
from tests.conftest import Tally
from tests.ingesting import Ingested, Workshop, workshop

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with workshop(tmp_path_factory.mktemp("home")) as shop:
        yield shop


def spec(name: str, source: dict[str, Any], action: str) -> dict[str, Any]:
    return {
        "name": re.sub("[^a-z0-9]+", "-", name.lower()),
        "source": source,
        "columns": list(COLUMNS),
        "rules": {**dict.fromkeys(RULES, action), "duplicates": "keep"},
        "split": {"by": "random", "seed": 1, "train": 0.6, "validation": 0.2, "test": 0.2},
    }


def kept(made: Ingested) -> dict[tuple[int, int], tuple[float, str, str]]:
    """Return the rows of all splits by file and place."""
    found = {}
    for row in made.kept():
        place = (row["row_id"] >> ROW_BITS, row["row_id"] & ((1 << ROW_BITS) - 1))
        assert row["features"] == [np.float32(row["n"])]
        found[place] = (row["n"], row["t"], "ab"[row["label"]])
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_under_fail_the_error_says_where_what_and_what_to_do(
    shop: Workshop, tmp_path: Path, case: Case, tally: Tally
) -> None:
    asked = spec(case.name, case.make(tmp_path), "fail")
    if not case.refused:
        assert kept(shop.ingest(tmp_path, asked)) == case.kept
        return
    with pytest.raises(RequestError) as caught:
        shop.ingest(tmp_path, asked)
    assert type(caught.value) is RequestError and "\n" not in str(caught.value)
    assert [word for word in case.refused if word not in str(caught.value)] == [], str(caught.value)
    tally("kinds of bad input refused by a clear error", 1)


@pytest.mark.parametrize("case", [case for case in CASES if case.kept], ids=lambda case: case.name)
def test_under_quarantine_bad_rows_are_kept_aside_and_all_others_exactly(
    shop: Workshop, tmp_path: Path, case: Case, tally: Tally
) -> None:
    made = shop.ingest(tmp_path, spec(case.name, case.make(tmp_path), "quarantine"))
    assert kept(made) == case.kept
    aside = made.group("quarantine")
    found = {(row["row_id"] >> ROW_BITS, row["quarantine_row"] - 1): row for row in aside}
    assert list(found) == sorted(case.aside) and len(aside) == len(found)
    for place, expected in case.aside.items():
        row = found[place]
        assert row["quarantine_rule"] == expected.rule
        assert expected.why in f"{row.get('quarantine_why')} {row['quarantine_reason']}"
        assert row["quarantine_column"] == expected.column
        assert (row["row_id"] & ((1 << ROW_BITS) - 1)) == place[1]
    assert sum(made.profile.quarantined.values()) == len(case.aside)
    assert made.profile.rows_kept == len(case.kept)
    tally("rows of bad input kept aside with a reason", len(aside))


def test_a_truncated_gzip_gives_the_rows_before_its_damage(shop: Workshop, tmp_path: Path) -> None:
    asked = spec("truncated gzip", gzip_truncated(tmp_path), "quarantine")
    made = shop.ingest(tmp_path, asked)
    rows = noisy()
    (lost,) = made.group("quarantine")
    assert 1000 < lost["row_id"] < len(rows) and "Truncated" in lost["quarantine_why"]
    assert kept(made) == {(0, place): row for place, row in enumerate(rows[: lost["row_id"]])}
    data = (tmp_path / "a.csv.gz").read_bytes()
    there = zlib.decompressobj(31).decompress(data).decode().count("\n") - 1
    assert there - lost["row_id"] < (64 << 10) / 40  # what the last 64 KiB may hold
    with pytest.raises(RequestError, match=rf"a\.csv\.gz row {lost['row_id'] + 1} .*Truncated.*rules\.unreadable"):
        shop.ingest(tmp_path, asked | {"rules": {**asked["rules"], "unreadable": "fail"}})


def pictures(folder: Path, on_error: str) -> dict[str, Any]:
    for number, kind in enumerate("ab"):
        (folder / "p" / kind).mkdir(parents=True)
        for brightness in range(12):
            pixels = np.full((5, 5), brightness + 100 * number, np.uint8)
            Image.fromarray(pixels).save(folder / "p" / kind / f"{brightness:02d}.png")
    (folder / "p" / "a" / "bomb.png").write_bytes(png_bomb())
    steps: list[dict[str, Any]] = [{"step": "image_decode", "column": "image", "mode": "L", "on_error": on_error}]
    if on_error == "null":
        steps.append({"step": "filter", "where": "not is_null(image)"})
    steps.append({"step": "image_resize", "column": "image", "height": 4, "width": 4, "dtype": "uint8"})
    return {
        "name": "pictures",
        "source": {"format": "images", "path": "p"},
        "columns": [
            {"name": "image", "dtype": "binary", "role": "image"},
            {"name": "path", "dtype": "string", "role": "key"},
            {"name": "label", "dtype": "string", "role": "label", "values": ["a", "b"]},
        ],
        "rules": {"duplicates": "keep"},
        "prepare": steps,
    }


def test_a_decompression_bomb_among_pictures_is_never_decoded(shop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "fail").mkdir()
    with pytest.raises(RequestError, match=r"image in row_id 12 is refused: .*pixels.*on_error: null") as caught:
        shop.ingest(tmp_path / "fail", pictures(tmp_path / "fail", "fail"))
    assert "Traceback" not in str(caught.value)
    (tmp_path / "null").mkdir()
    made = shop.ingest(tmp_path / "null", pictures(tmp_path / "null", "null"))
    rows = made.kept()
    assert [row["row_id"] for row in rows] == [n for n in range(25) if n != 12]
    assert [row["features"][0] for row in rows] == [*range(12), *range(100, 112)]
    assert made.profile.classes == {"a": 12, "b": 12}
