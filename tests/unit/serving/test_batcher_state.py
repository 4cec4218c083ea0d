"""Whatever comes, leaves, expires or fails: who is answered gets exactly its rows, and counts stay true."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lightmill.errors import DeadlineError, TooBusyError
from lightmill.models.answers import Values
from lightmill.records.batching import PRIORITIES, Priority
from lightmill.serving.batcher import Batcher
from lightmill.serving.padding import LengthBuckets
from lightmill.serving.phases import BatchReport
from lightmill.serving.waiting import QueueLimits
from tests.unit.serving.stepping import ByHand, SteppedLoop

Tokens = npt.NDArray[np.int64]
POISON = 7_000_000


@dataclass(kw_only=True)
class Sent:
    tokens: Tokens
    task: asyncio.Task[Any]
    cancelled: bool = False


class Batching(RuleBasedStateMachine):
    """Requests of rows that are all different, on a batcher that is stepped."""

    @initialize(
        max_rows=st.sampled_from([16, 30, 5, 1]),
        max_bytes=st.sampled_from([1 << 20, 400, 8]),
        max_wait_s=st.sampled_from([0.0, 0.004]),
        adaptive=st.booleans(),
        inline=st.booleans(),
        buckets=st.booleans(),
    )
    def begin(
        self, max_rows: int, max_bytes: int, max_wait_s: float, adaptive: bool, inline: bool, buckets: bool
    ) -> None:
        self.loop = SteppedLoop()
        self.hand = ByHand()
        self.inline = inline
        self.sent: list[Sent] = []
        self.computed: list[int] = []
        self.sizes: list[int] = []
        self.told: list[BatchReport] = []
        self.next_row = 0
        self.limits = QueueLimits(
            max_rows=max_rows, max_bytes=max_bytes, max_queue_requests=12, max_queue_rows=40, ageing_s=0.5
        )
        self.batcher = Batcher(
            self.compute,
            max_rows=max_rows,
            max_wait_s=max_wait_s,
            inline=inline,
            adaptive=adaptive,
            limits=self.limits,
            buckets=LengthBuckets(edges=(2, 4), value=0) if buckets else None,
            observers=(self.told.append,),
            executor=self.hand,
        )

    def compute(self, tokens: Tokens, lengths: Tokens | None = None) -> Values:
        self.sizes.append(len(tokens))
        assert tokens.nbytes <= self.limits.max_bytes or len(tokens) == 1
        self.computed += tokens[:, 0].tolist()
        if (tokens[:, 0] >= POISON).any():
            raise ValueError("poison")
        widths = np.full(len(tokens), tokens.shape[1]) if lengths is None else lengths
        for row, width in zip(tokens, widths, strict=True):
            assert (row[:width] == row[0]).all() and not row[width:].any()
        return Values(value=(tokens[:, 0] * 10 + widths).astype(np.float64).astype(np.float32))

    @rule(
        rows=st.integers(1, 3) | st.integers(1, 40),
        width=st.integers(1, 6),
        priority=st.sampled_from(PRIORITIES),
        timeout_s=st.sampled_from([None, 0.003, 0.02]),
        poison=st.sampled_from([False] * 9 + [True]),
    )
    def send(self, rows: int, width: int, priority: Priority, timeout_s: float | None, poison: bool) -> None:
        first = self.next_row + 1 + (POISON if poison else 0)
        self.next_row += rows
        tokens = np.repeat(np.arange(first, first + rows, dtype=np.int64)[:, None], width, axis=1)
        deadline = None if timeout_s is None else self.loop.time() + timeout_s
        work = self.batcher.predict(tokens, deadline=deadline, priority=priority)
        # Not settled: the next may be sent in the same iteration of the loop.
        self.sent.append(Sent(tokens=tokens, task=self.loop.create_task(work)))

    @rule(data=st.data())
    @precondition(lambda self: getattr(self, "sent", None))
    def cancel(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.sent))
        chosen.cancelled = chosen.task.cancel() or chosen.cancelled

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.01, 1.0]))
    def advance(self, seconds: float) -> None:
        self.loop.advance(seconds)

    @rule()
    def step(self) -> None:
        self.loop.settle()
        if self.hand.waiting:
            self.hand.step()
            self.loop.settle()

    @invariant()
    def counts_are_true(self) -> None:
        if not hasattr(self, "batcher"):
            return
        line = self.batcher._line
        assert line.requests == len(list(line))
        assert line.rows == sum(one.rows - one.start for one in line)
        assert line.size_bytes == sum((one.rows - one.start) * one.row_bytes for one in line)
        assert all(size <= self.limits.max_rows for size in self.sizes)

    def teardown(self) -> None:
        if not hasattr(self, "batcher"):
            return
        for _ in range(1000):
            self.loop.advance(5.0)
            if not self.hand.waiting and all(one.task.done() for one in self.sent):
                break
            while self.hand.waiting:
                self.hand.step()
                self.loop.settle()
        assert (self.batcher.waiting_requests, self.batcher.waiting_rows) == (0, 0)
        assert len(set(self.computed)) == len(self.computed), "a row was computed twice"
        for one in self.sent:
            self.judge(one)
        assert sum(report.rows for report in self.told) == len(self.computed)
        self.batcher.close()
        self.loop.close()

    def judge(self, one: Sent) -> None:
        assert one.task.done()
        if one.task.cancelled():
            assert one.cancelled
            return
        problem = one.task.exception()
        if problem is None:
            width = one.tokens.shape[1]
            expected = (one.tokens[:, 0] * 10 + width).astype(np.float32)
            np.testing.assert_array_equal(one.task.result().value, expected)
            assert set(one.tokens[:, 0].tolist()) <= set(self.computed)
        else:
            assert isinstance(problem, TooBusyError | DeadlineError) or str(problem) == "poison"


TestBatching = Batching.TestCase
TestBatching.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
