from __future__ import annotations

import pytest

from lightmill.catalog import Catalog
from lightmill.errors import IntegrityError


def test_a_mark_rises_and_never_falls(catalog: Catalog) -> None:
    assert catalog.marks.get("m", "v") is None
    catalog.marks.raise_to("m", "v", 2, "two")
    catalog.marks.raise_to("m", "v", 1, "one")
    assert catalog.marks.get("m", "v") == (2, "two")
    catalog.marks.raise_to("m", "v", 3, "three")
    catalog.marks.raise_to("m", "v", 3, "three")
    assert catalog.marks.get("m", "v") == (3, "three")


def test_streams_are_apart(catalog: Catalog) -> None:
    catalog.marks.raise_to("m", "v", 2, "two")
    catalog.marks.raise_to("m", "a/champion", 1, "one")
    assert catalog.marks.get("m", "a/champion") == (1, "one")
    assert catalog.marks.get("n", "v") is None


def test_a_rewritten_history_is_an_integrity_error(catalog: Catalog) -> None:
    catalog.marks.raise_to("m", "v", 2, "two")
    with pytest.raises(IntegrityError, match="forged"):
        catalog.marks.raise_to("m", "v", 2, "forged")
    assert catalog.marks.get("m", "v") == (2, "two")
