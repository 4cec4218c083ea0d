"""What a journal keeps: all that was put before a kill, nothing that was torn, changed, moved or another's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.datasets.journal import Journal
from lightmill.errors import ConflictError
from lightmill.records.references import AssetKind
from lightmill.registry import DraftId

KEY = bytes(range(32))
DRAFT = DraftId(kind=AssetKind.DATASET, name="d", mid="m", publish_id="p")
SECRET = b"a canary that must not be read"


def written(path: Path, frames: int = 3) -> Path:
    journal = Journal.create(path, DRAFT, KEY)
    for number in range(frames):
        journal.put("judge", number, SECRET + bytes([number]))
    journal.close()
    return path


def test_what_was_put_is_there_again_and_is_sealed(tmp_path: Path) -> None:
    path = written(tmp_path / "deep" / "a.journal")
    assert Journal.draft_of(path) == DRAFT
    assert SECRET not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    again = Journal.resume(path, KEY)
    assert len(again) == 3 and not again.has("seal", 0)
    again.put("seal", 0, b"more")
    assert [again.get("judge", 2), again.get("seal", 0), again.get("judge", 0)] == [
        SECRET + b"\2",
        b"more",
        SECRET + b"\0",
    ]
    with pytest.raises(ConflictError, match="Another job"):
        Journal.resume(path, KEY)
    again.remove()
    assert not path.exists() and Journal.draft_of(path) is None


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_torn_or_changed_journal_keeps_what_stands_before(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory.mktemp("j") / "a.journal")
    whole = bytearray(path.read_bytes())
    first = len(whole) - 3 * (len(SECRET) + 1 + 12 + 16 + 4 + 6 + len("judge"))
    at = data.draw(st.integers(first, len(whole) - 1))
    if data.draw(st.booleans()):
        del whole[at:]
    else:
        whole[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    again = Journal.resume(path, KEY)
    frame = len(SECRET) + 1 + 12 + 16 + 4 + 6 + len("judge")
    assert len(again) == (at - first) // frame
    for number in range(len(again)):
        assert again.get("judge", number) == SECRET + bytes([number])
    again.put("judge", len(again), b"done again")
    again.close()
    assert Journal.resume(path, KEY).get("judge", (at - first) // frame) == b"done again"


def test_frames_cannot_be_moved_and_another_key_reads_none(tmp_path: Path) -> None:
    path = written(tmp_path / "a.journal")
    whole = path.read_bytes()
    frame = len(SECRET) + 1 + 12 + 16 + 4 + 6 + len("judge")
    first = len(whole) - 3 * frame
    swapped = whole[:first] + whole[first + frame : first + 2 * frame] + whole[first : first + frame]
    path.write_bytes(swapped)
    assert len(Journal.resume(path, KEY)) == 0
    path.write_bytes(whole)
    assert len(Journal.resume(path, bytes(32))) == 0


def test_what_is_no_journal_names_no_draft(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"something else")
    assert Journal.draft_of(tmp_path / "x") is None
    assert Journal.draft_of(tmp_path / "none") is None
