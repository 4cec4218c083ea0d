"""1,000 seeded identifiers of ten kinds through the whole of ingestion, as CSV, JSON lines and free text.

None is left in the version, its quarantine, its profile and manifest, the catalog, what the job prints, or Ray's logs
and spilled objects. A search for what is there on purpose shows that the hunt finds.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightmill.records.masking import parse_masking_policy
from tests.conftest import Tally
from tests.ingesting import Ingested, Workshop, workshop
from tests.unit.masking.examples import SAID
from tests.unit.masking.test_identifiers import FREE, TEN_KINDS, columns_of, core, identifiers, leaks

pytestmark = [pytest.mark.integration, pytest.mark.slow]
FOUND = identifiers()
CONTROL = "canary-that-is-meant-to-stay"
LABEL = {"name": "kind", "dtype": "string", "role": "label", "values": ["a", "b"]}
NUMBER = {"name": "n", "dtype": "float64"}
RULES = {**dict.fromkeys(("unreadable", "type", "missing", "out_of_range"), "quarantine"), "duplicates": "keep"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with workshop(tmp_path_factory.mktemp("home")) as shop:
        rules = [{"detectors": ["all"], "action": "redact"}]
        shop.platform.policies.add(parse_masking_policy({"name": "staff", "rules": rules}, "the policy"))
        yield shop


def as_csv(folder: Path) -> dict[str, Any]:
    """Columns of their own names and notes; every 20th row has no number, every 33rd has a cell too many."""
    columns = {SAID[kind].lower(): {"dtype": "string", "role": "key", "max_nulls": 1.0} for kind in TEN_KINDS}
    lines = [",".join(["n", *columns, "note", "kind"])]
    for number, row in enumerate(columns_of(FOUND).to_pylist()):
        note = row["note"].replace("\n", " ").replace('"', "'")
        cells = [
            "none" if number % 20 == 0 else f"{number}.0",
            *(row[name] for name in columns),
            note,
            "ab"[number % 2],
        ]
        quoted = ",".join(f'"{cell}"' for cell in cells)
        lines.append(quoted + (f',"{note}"' if number % 33 == 0 else ""))
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    declared = [{"name": name, **column} for name, column in columns.items()]
    return {
        "source": {"path": "a.csv"},
        "columns": [NUMBER, *declared, {"name": "note", "dtype": "string", "role": "text"}, LABEL],
    }


def as_json_lines(folder: Path) -> dict[str, Any]:
    """JSON in text, nested and escaped; every 20th line breaks off, every 33rd has a text for its number."""
    lines = []
    for number, row in enumerate(columns_of(FOUND).to_pylist()):
        value = {"n": float(number), "doc": row["doc"], "note": row["note"], "kind": "ab"[number % 2]}
        line = json.dumps(value | ({"n": row["note"]} if number % 33 == 0 else {}))
        lines.append(line[:-9] if number % 20 == 0 else line)
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    text = {"dtype": "string", "role": "text"}
    return {
        "source": {"format": "jsonl", "path": "a.jsonl"},
        "columns": [NUMBER, {"name": "doc", **text}, {"name": "note", **text}, LABEL],
    }


def as_text(folder: Path) -> dict[str, Any]:
    """Lines of prose; those of more than 70 characters are kept aside."""
    rng = random.Random(3)
    lines = []
    for number, (kind, spellings) in enumerate(FOUND):
        spelling = spellings[number % len(spellings)]
        lines.append(rng.choice(FREE).format(said=SAID[kind], value=spelling).replace("\n", " "))
    (folder / "a.txt").write_text("\n".join(lines) + "\n")
    column = {"name": "text", "dtype": "string", "role": "text", "max_length": 70}
    split = {"by": "random", "seed": 1}
    return {"source": {"format": "text", "path": "a.txt"}, "columns": [column], "split": split}


FORMS: dict[str, Callable[[Path], dict[str, Any]]] = {"csv": as_csv, "json": as_json_lines, "text": as_text}


def test_none_of_a_thousand_identifiers_is_left_anywhere(
    shop: Workshop, tmp_path: Path, capfd: pytest.CaptureFixture[str], tally: Tally
) -> None:
    said = ""
    for name, write in FORMS.items():
        (tmp_path / name).mkdir()
        spec = {"name": f"ids-{name}", "description": CONTROL, "rules": RULES, "masking": "staff@1"}
        made = shop.ingest(tmp_path / name, {**spec, **write(tmp_path / name)})
        check_rows(made)
        said += made.version.read_file("profile.json").decode() + made.version.manifest.model_dump_json()
        report = made.profile.masked
        assert report is not None and (report.policy, report.version) == ("staff", 1)
        treated = dict.fromkeys(TEN_KINDS, 0)
        for count in report.counts:
            treated[str(count.detector)] = treated.get(str(count.detector), 0) + count.values
        assert all(treated[kind] >= 50 for kind in TEN_KINDS), treated
        tally(f"identifiers ingested as {name}, none left", len(FOUND))
    out, err = capfd.readouterr()
    texts = {"profile or manifest": said, "output": out + err, **files_of(shop)}
    assert CONTROL in texts["profile or manifest"]
    wanted = {spelling for _, spellings in FOUND for one in spellings for spelling in (one, core(one))}
    for place, text in texts.items():
        assert [spelling for spelling in wanted if stands(spelling, text)] == [], place
    assert any("ids-text" in text for place, text in texts.items() if "catalog.db" in place)
    tally("places searched", len(texts))


def check_rows(made: Ingested) -> None:
    """Every row is in the version or aside, and holds no identifier, with or without its separators."""
    kept, aside = made.kept(), made.group("quarantine")
    assert len(kept) + len(aside) == len(FOUND) and 20 <= len(aside) <= 500 and CONTROL
    for row in [*kept, *aside]:
        _, spellings = FOUND[row["row_id"]]
        values = [str(value) for key, value in row.items() if value is not None and key != "row_id"]
        assert not any(leaks(spellings, value) for value in values), row


def files_of(shop: Workshop) -> dict[str, str]:
    """Return the text of every file that the platform or Ray has written, but for the keys."""
    import ray

    session = Path(ray._private.worker._global_node.get_session_dir_path())  # pyright: ignore
    home = shop.platform.settings.home
    files = [path for folder in (home, session) for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix in (".log", ".out", ".err") and path.stat().st_size for path in files)
    return {str(path): path.read_bytes().decode("latin-1") for path in files}


def stands(spelling: str, text: str) -> bool:
    """Whether a spelling stands in a text as a word of its own, in the case in which it was written."""
    return spelling in text and bool(re.search(rf"(?<![0-9A-Za-z]){re.escape(spelling)}(?![0-9A-Za-z])", text))
