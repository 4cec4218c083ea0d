"""Person names: a clear error where Presidio or its model is missing; the real Presidio where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from lightmill.errors import RequestError
from lightmill.masking import DETECTORS, Masker
from lightmill.masking.names import NameDetector
from tests.unit.masking.examples import policy

INSTALLED = importlib.util.find_spec("presidio_analyzer") is not None
NAMES = policy({"detectors": ["person_name", "email"], "action": "redact"})


def test_the_error_says_what_to_install_when_the_masker_is_made() -> None:
    said = "spaCy model 'no_such_model'" if INSTALLED else r'pip install "lightmill\[privacy\]"'
    with pytest.raises(RequestError, match=said) as caught:
        Masker(NAMES, detectors={**DETECTORS, "person_name": NameDetector("no_such_model")})
    assert "take person_name out of the policy" in caught.value.message


def test_all_leaves_names_out() -> None:
    assert Masker(policy({"detectors": ["all"], "action": "redact"})).text("Jane Roe") == "Jane Roe"


@pytest.mark.skipif(not INSTALLED, reason="needs the extra 'privacy'")
def test_names_are_found_by_presidio_with_a_model_from_a_folder(tmp_path: Path) -> None:
    import spacy

    model = spacy.blank("en")
    ruler = model.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Jane Roe"}])  # pyright: ignore[reportAttributeAccessIssue]
    model.to_disk(tmp_path / "model")
    known = {**DETECTORS, "person_name": NameDetector(str(tmp_path / "model"))}
    masker = Masker(NAMES, detectors=known)
    assert masker.text("Dr. Jane Roe <jane@roe.example> came.") == "Dr. [person_name] <[email]> came."
    long = "word " * 10_200 + "Jane Roe " + "word " * 10
    assert "Jane" not in masker.text(long) and "Jane" not in masker.text("x" * 49_996 + " Jane Roe")
