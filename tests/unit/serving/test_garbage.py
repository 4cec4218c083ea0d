"""What a replica loaded is out of the collector's way; what requests leave behind in cycles is still collected."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from lightmill.serving.garbage import YOUNG_OBJECTS, settle


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


class Node:
    def __init__(self) -> None:
        self.itself = self


def test_what_lives_is_frozen_and_later_cycles_are_collected() -> None:
    gone = weakref.ref(Node())
    settle()
    assert gone() is None
    assert gc.get_freeze_count() > 0 and gc.get_threshold()[0] == YOUNG_OBJECTS
    later = weakref.ref(Node())
    kept = [[] for _ in range(2 * YOUNG_OBJECTS)]  # more than are made between two looks
    assert later() is None and kept
