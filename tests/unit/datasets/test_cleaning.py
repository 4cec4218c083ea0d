"""What the declared columns and rules say of each row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from lightmill.datasets.cleaning import (
    DUPLICATE,
    KEPT,
    MISSING,
    OUT_OF_RANGE,
    UNKNOWN_LABEL,
    Cleaner,
    classes_of,
    mark_duplicates,
)
from tests.unit.datasets.examples import block, spec


def test_rows_within_the_schema_are_kept_as_they_are() -> None:
    clean = Cleaner(spec()).clean(block([(0, 1.5, "no"), (10, -1e300, "yes")], first=7))
    assert clean.verdict.tolist() == [KEPT, KEPT]
    assert clean.row_id.tolist() == [7, 8]
    assert clean.features.tolist() == [[0, 1.5], [10, -1e300]]
    assert clean.label.tolist() == [0, 1]
    assert clean.clipped == 0


def test_every_fault_has_its_verdict_and_missing_counts_first() -> None:
    rows = [
        (None, 1.0, "no"),
        (1, None, "no"),
        (1, float("nan"), "no"),
        (1, 1.0, None),
        (-1, 1.0, "no"),
        (11, 1.0, "no"),
        (1, 1.0, "maybe"),
        (11, 1.0, "maybe"),
        (None, 1.0, "maybe"),
        (1, float("inf"), "no"),
    ]
    found = Cleaner(spec(out_of_range="drop")).clean(block(rows)).verdict.tolist()
    assert found == [
        *[MISSING] * 4,
        OUT_OF_RANGE,
        OUT_OF_RANGE,
        UNKNOWN_LABEL,
        UNKNOWN_LABEL,
        MISSING,
        OUT_OF_RANGE,
    ]


def test_clipping_moves_values_to_their_limits_and_counts_them() -> None:
    clean = Cleaner(spec(out_of_range="clip")).clean(block([(-5, 1.0, "no"), (99, 2.0, "yes"), (3, 3.0, "no")]))
    assert clean.verdict.tolist() == [KEPT] * 3
    assert clean.features[:, 0].tolist() == [0, 10, 3]
    assert clean.features[:, 1].tolist() == [1.0, 2.0, 3.0]
    assert clean.clipped == 2


def test_clipping_mends_no_label_and_no_missing_value() -> None:
    found = Cleaner(spec(out_of_range="clip")).clean(block([(99, None, "no"), (99, 1.0, "maybe")]))
    assert found.verdict.tolist() == [MISSING, UNKNOWN_LABEL]


def test_an_empty_block_is_clean() -> None:
    clean = Cleaner(spec()).clean(block([]))
    assert clean.features.shape == (0, 2)
    assert clean.digest.shape == (0, 2)
    assert clean.verdict.size == 0


def test_classes_are_texts_in_declared_order() -> None:
    assert classes_of(spec()) == ("no", "yes")


def test_labels_that_are_numbers_match_their_declared_values() -> None:
    numbers = spec().model_copy(
        update={
            "columns": (*spec().columns[:2], spec().columns[2].model_copy(update={"dtype": "int64", "values": (3, 1)}))
        }
    )
    table = block([(1, 1.0, "no")] * 3).set_column(3, "y", pa.array([1, 3, 2]))
    clean = Cleaner(numbers).clean(table)
    assert clean.label.tolist() == [1, 0, -1]
    assert classes_of(numbers) == ("3", "1")


# -- duplicates ---------------------------------------------------------------


def verdicts_with_duplicates(rows: list[tuple[object, object, object]], blocks: int = 1) -> list[int]:
    cleaner = Cleaner(spec(missing="drop", out_of_range="drop"))
    size = -(-len(rows) // blocks)
    parts = [cleaner.clean(block(rows[at : at + size], at)) for at in range(0, len(rows), size)]
    verdict = np.concatenate([part.verdict for part in parts])
    mark_duplicates(np.concatenate([part.digest for part in parts]), verdict)
    return verdict.tolist()


def test_a_repeated_row_is_marked_and_the_first_is_kept() -> None:
    rows = [(1, 1.0, "no"), (2, 1.0, "no"), (1, 1.0, "no"), (1, 1.0, "yes"), (1, 1.5, "no"), (1, 1.0, "no")]
    assert verdicts_with_duplicates(rows) == [KEPT, KEPT, DUPLICATE, KEPT, KEPT, DUPLICATE]
    assert verdicts_with_duplicates(rows, blocks=3) == [KEPT, KEPT, DUPLICATE, KEPT, KEPT, DUPLICATE]


def test_a_row_that_was_dropped_already_counts_neither_as_first_nor_as_duplicate() -> None:
    rows = [(11, 1.0, "no"), (11, 1.0, "no"), (None, 1.0, "no"), (None, 1.0, "no"), (1, 1.0, "no")]
    assert verdicts_with_duplicates(rows) == [OUT_OF_RANGE, OUT_OF_RANGE, MISSING, MISSING, KEPT]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.5]), st.sampled_from(["no", "yes"])), max_size=30))
def test_of_any_rows_one_of_each_stays(rows: list[tuple[int, float, str]]) -> None:
    if not rows:
        return
    found = verdicts_with_duplicates(list(rows), blocks=2)
    seen: set[tuple[int, float, str]] = set()
    expected = []
    for row in rows:
        expected.append(DUPLICATE if row in seen else KEPT)
        seen.add(row)
    assert found == expected


def test_the_digest_of_a_row_has_128_bits() -> None:
    """Two halves that say the same have 64, and of a billion rows one is lost to chance in every 37th ingest."""
    generator = np.random.default_rng(1)
    rows = [
        (int(a), float(b), "no")
        for a, b in zip(generator.integers(0, 10, 200), generator.normal(size=200), strict=True)
    ]
    digest = Cleaner(spec()).clean(block(rows)).digest
    assert digest.dtype == np.uint64
    assert not (digest[:, 0] == digest[:, 1]).any()
    assert len(np.unique(digest, axis=0)) == 200


def test_equal_rows_have_equal_digests_in_any_block() -> None:
    cleaner = Cleaner(spec())
    alone = cleaner.clean(block([(1, 0.1, "no")])).digest[0]
    among = cleaner.clean(block([(2, 0.1, "no"), (1, 0.1, "no"), (1, 0.2, "no")])).digest
    assert among[1].tolist() == alone.tolist()
    assert among[0].tolist() != alone.tolist()
