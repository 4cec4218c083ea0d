"""Changes of keys from the control plane's catalog to a replica's door, step by step."""

from __future__ import annotations

import pytest

from lightmill.access import mint_key
from lightmill.errors import AuthenticationError, UnavailableError
from lightmill.records.keys import AccessSet
from lightmill.serving.access_feed import MARK_KEY, SET_KEY, AccessWatcher, follow_access, write_access
from lightmill.serving.board import MemoryBoard
from lightmill.serving.gatekeeper import Gatekeeper

TEXT, KEY = mint_key("ci")
HEADERS = [(b"x-api-key", TEXT.encode())]


class Away(MemoryBoard):
    """A board that does not answer when it is told so, and counts what is asked."""

    away = False
    asked: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.asked = []

    def get(self, name: str) -> bytes | None:
        if self.away:
            raise UnavailableError("the head is away")
        self.asked.append(name)
        return super().get(name)


def test_a_replica_takes_a_new_set_and_looks_at_the_mark_alone_until_the_next() -> None:
    board, door = Away(), Gatekeeper("digits")
    watcher = AccessWatcher(board, door.renew)
    assert not watcher.step() and not watcher.following
    write_access(board, AccessSet(keys=(KEY,)))
    assert watcher.step() and watcher.following
    door.release(door.admit(HEADERS))
    board.asked.clear()
    assert not watcher.step()
    assert board.asked == [MARK_KEY]
    write_access(board, AccessSet())
    assert watcher.step()
    with pytest.raises(AuthenticationError):
        door.admit(HEADERS)


def test_a_board_that_is_away_or_empty_leaves_the_keys_of_before() -> None:
    board, door = Away(), Gatekeeper("digits")
    watcher = AccessWatcher(board, door.renew)
    write_access(board, AccessSet(keys=(KEY,)))
    watcher.step()
    board.away = True
    assert not watcher.step()
    board.away = False
    for name in (MARK_KEY, SET_KEY):
        board.delete(name)
    assert not watcher.step()
    door.release(door.admit(HEADERS))


def test_a_set_that_is_half_written_is_not_used() -> None:
    board, door = Away(), Gatekeeper("digits")
    watcher = AccessWatcher(board, door.renew)
    write_access(board, AccessSet(keys=(KEY,)))
    good = board.get(SET_KEY) or b""
    board.put(SET_KEY, AccessSet().model_dump_json().encode())
    assert not watcher.step()
    board.put(SET_KEY, good)
    assert watcher.step()


def test_a_replica_that_starts_while_a_set_is_written_waits_for_the_rest() -> None:
    class Halves(MemoryBoard):
        """Its mark is that of the next set until it was looked at twice."""

        looks = 0

        def get(self, name: str) -> bytes | None:
            self.looks += name == MARK_KEY
            return b"another" if name == MARK_KEY and self.looks <= 2 else super().get(name)

    board, door = Halves(), Gatekeeper("digits")
    write_access(board, AccessSet(keys=(KEY,)))
    watcher = follow_access(door.renew, board)
    assert watcher.following and board.looks == 3
    door.release(door.admit(HEADERS))
    assert not follow_access(door.renew, MemoryBoard()).following  # nothing is written, and nothing is waited for


@pytest.mark.parametrize("data", [b"", b"{", b'{"keys": 3}', b"\xff"])
def test_a_set_that_is_none_leaves_the_keys_of_before(data: bytes) -> None:
    from lightmill.serving.access_feed import mark_of

    board, door = Away(), Gatekeeper("digits", [KEY])
    watcher = AccessWatcher(board, door.renew)
    board.put(SET_KEY, data)
    board.put(MARK_KEY, mark_of(data))
    assert not watcher.step()
    door.release(door.admit(HEADERS))
