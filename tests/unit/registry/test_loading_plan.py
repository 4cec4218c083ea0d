"""The arithmetic of range reads: everything that is wanted, little else, in requests of bounded size."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import IntegrityError
from lightmill.records.assets import BlobEntry
from lightmill.registry.planning import GAP_BYTES, OVERREAD_BYTES, PART_BYTES, BlobPlan, Target, plan_blobs
from lightmill.vault import HEADER_BYTES, sealed_size

MIB = 1 << 20
TAG = 16


def entry(length: int, segment_bytes: int = MIB, id: str = "ab" * 32) -> BlobEntry:
    return BlobEntry(id=id, key="00" * 32, length=length, size=sealed_size(length, segment_bytes), dedup="")


def plan(blob: BlobEntry, *ranges: tuple[int, int]) -> BlobPlan:
    targets = [Target(blob=blob.id, offset=start, out=ZEROS[: stop - start]) for start, stop in ranges]
    (found,) = plan_blobs({blob.id: blob}, targets)
    return found


ZEROS = memoryview(bytearray(64 * MIB))


@st.composite
def wanted(draw: st.DrawFn) -> tuple[BlobEntry, list[tuple[int, int]]]:
    length = draw(st.one_of(st.integers(1, 64 * MIB), st.sampled_from([1, MIB, MIB + 1, 8 * MIB, 64 * MIB])))
    segment_bytes = 1 << draw(st.integers(16, 26))
    point = st.integers(0, length - 1)
    pairs = draw(st.lists(st.tuples(point, point), min_size=1, max_size=8))
    return entry(length, segment_bytes), [(min(pair), max(pair) + 1) for pair in pairs]


@given(wanted())
def test_every_wanted_byte_is_in_one_segment_of_one_run(case: tuple[BlobEntry, list[tuple[int, int]]]) -> None:
    blob, ranges = case
    found = plan(blob, *ranges)
    assert found.segments == max(1, -(-blob.length // found.segment_bytes))
    assert sealed_size(blob.length, found.segment_bytes) == blob.size
    covered = set()
    end = 0
    for run in found.runs:
        assert run.offset >= end or run is found.runs[0]
        end = run.offset + run.length
        assert end <= blob.size
        for cut in run.cuts:
            assert run.offset <= cut.offset and cut.offset + cut.length <= end
            covered.add(cut.index)
    assert found.runs[0].offset == 0 and found.runs[0].length >= HEADER_BYTES
    size = found.segment_bytes
    assert covered == {i for start, stop in ranges for i in range(start // size, (stop - 1) // size + 1)}
    given_out = sum(out.nbytes for run in found.runs for cut in run.cuts for _, out in cut.outs)
    assert given_out == sum(stop - start for start, stop in ranges)


@given(wanted())
def test_requests_are_bounded_and_gaps_cost_little(case: tuple[BlobEntry, list[tuple[int, int]]]) -> None:
    blob, ranges = case
    found = plan(blob, *ranges)
    cuts = [cut for run in found.runs for cut in run.cuts]
    assert all(run.length < PART_BYTES + found.segment_bytes + OVERREAD_BYTES for run in found.runs)
    assert found.read_bytes - sum(cut.length for cut in cuts) - HEADER_BYTES < OVERREAD_BYTES
    for one, next_ in pairwise(found.runs):
        gap = next_.offset - one.offset - one.length
        full = sum(cut.length - TAG for cut in one.cuts) >= PART_BYTES
        assert full or gap >= GAP_BYTES or found.segment_bytes < GAP_BYTES


@given(st.integers(1, 64 * MIB), st.data())
def test_one_range_costs_its_bytes_and_less_than_two_mebibytes(length: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    found = plan(entry(length), (start, stop))
    tags = TAG * sum(len(run.cuts) for run in found.runs)
    assert found.read_bytes - HEADER_BYTES - tags < stop - start + 2 * MIB


def test_a_whole_blob_is_read_in_parts_of_eight_mebibytes() -> None:
    found = plan(entry(64 * MIB), (0, 64 * MIB))
    assert len(found.runs) == 8
    assert found.read_bytes == sealed_size(64 * MIB)
    assert all(len(run.cuts) == 8 for run in found.runs)


def test_a_gap_of_a_small_segment_is_read_over_and_one_of_a_mebibyte_is_not() -> None:
    small = plan(entry(8 * MIB, 1 << 16), (0, 10), (3 << 16, (3 << 16) + 10), (40 << 16, (40 << 16) + 10))
    assert [[cut.index for cut in run.cuts] for run in small.runs] == [[0, 3], [40]]
    large = plan(entry(8 * MIB), (0, 10), (2 * MIB, 2 * MIB + 10))
    assert [[cut.index for cut in run.cuts] for run in large.runs] == [[0], [2]]


def test_what_no_blob_can_be_is_refused() -> None:
    good = entry(3 * MIB)
    for bad in (good.model_copy(update={"size": good.size + 1}), good.model_copy(update={"length": 3 * MIB - 1})):
        with pytest.raises(IntegrityError, match=good.id):
            plan(bad, (0, 10))
    with pytest.raises(IntegrityError, match=good.id):
        plan(good, (3 * MIB - 1, 3 * MIB + 1))
    with pytest.raises(IntegrityError, match="cd" * 32):
        list(plan_blobs({good.id: good}, [Target(blob="cd" * 32, offset=0, out=ZEROS[:1])]))
