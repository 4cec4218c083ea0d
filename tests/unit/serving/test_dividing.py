"""A large request in parts: all rows once and in order, the first failure fails the whole, nothing is left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import RequestError, TooBusyError
from lightmill.models.answers import Values
from lightmill.records.parallel import SplitSpec
from lightmill.serving.dividing import Divider, parts_of


@given(rows=st.integers(1, 5000), most=st.integers(1, 700))
def test_parts_are_all_rows_in_order_and_none_is_too_large(rows: int, most: int) -> None:
    found = parts_of(rows, most)
    assert [row for part in found for row in part] == list(range(rows))
    sizes = [len(part) for part in found]
    assert max(sizes) <= most and max(sizes) - min(sizes) <= 1
    assert len(found) == -(-rows // most)


class Replicas:
    """Answers each row with itself after a while, later parts sooner; notes what goes on."""

    def __init__(self, fail: dict[int, Exception] | None = None) -> None:
        self.fail = fail or {}
        self.running = self.most = self.asked = self.cancelled = 0
        self.limits: list[float | None] = []

    async def ask(self, features: Any, timeout_s: float | None, priority: str) -> Values:
        self.asked += 1
        self.running += 1
        self.most = max(self.most, self.running)
        self.limits.append(timeout_s)
        try:
            first = int(features[0, 0])
            await asyncio.sleep(0.02 if first in self.fail else 0.05 - first / 10_000)
            if first in self.fail:
                raise self.fail[first]
            return Values(value=features[:, 0])
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


ROWS = np.arange(100, dtype=np.float32).reshape(100, 1)


def test_answers_are_joined_in_the_order_of_rows_with_as_many_at_once_as_may_be() -> None:
    replicas = Replicas()
    divider = Divider(SplitSpec(rows=10, at_once=4), replicas.ask)
    assert divider.divides(11) and not divider.divides(10)

    async def run() -> Any:
        return await divider.answer(ROWS, asyncio.get_running_loop().time() + 5, "normal")

    found = asyncio.run(run())
    np.testing.assert_array_equal(found.value, ROWS[:, 0])
    assert replicas.asked == 10 and replicas.most == 4
    assert all(limit is not None and 4 < limit <= 5 for limit in replicas.limits)


def test_a_part_that_fails_fails_the_request_by_name_and_ends_the_others() -> None:
    replicas = Replicas({20: RequestError("Token id 9 is unknown.")})
    with pytest.raises(RequestError, match=r"Part 3 of 10 of this request \(rows 20 to 29\): Token id 9 is unknown\."):
        asyncio.run(Divider(SplitSpec(rows=10, at_once=5), replicas.ask).answer(ROWS, None, "normal"))
    assert replicas.cancelled == replicas.asked - 1 <= 5 and replicas.running == 0
    with pytest.raises(TooBusyError) as caught:
        busy = Replicas({0: TooBusyError("full", retry_after_s=7.0)})
        asyncio.run(Divider(SplitSpec(rows=60), busy.ask).answer(ROWS, None, "normal"))
    assert caught.value.retry_after_s == 7.0


def test_a_client_that_goes_away_takes_all_parts_along() -> None:
    replicas = Replicas()

    async def run() -> None:
        task = asyncio.create_task(Divider(SplitSpec(rows=10, at_once=3), replicas.ask).answer(ROWS, None, "normal"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert replicas.cancelled == 3 and replicas.running == 0 and replicas.asked == 3
