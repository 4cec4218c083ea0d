"""How a replica batches requests: limits, waits, the bounded queue, classes, and texts of unequal lengths."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lightmill.records.base import Record

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")


class BatchingSpec(Record):
    """Dynamic batching: requests that wait together are computed together.

    A batch closes at `max_rows` rows or `max_bytes` bytes of input, or after `max_wait_ms` milliseconds; 0 takes only
    what is there already. An `adaptive` wait ends earlier when nobody else is likely to come within it. A request
    larger than a batch is computed in pieces. At most `max_queue_requests` requests and `max_queue_rows` rows wait;
    more are refused with 503 and Retry-After. A request is answered within `timeout_ms`, or with 504. One of a lower
    class goes as though it had come `ageing_ms` later. `length_buckets` are the lengths up to which rows of tokens are
    padded together: powers of two, or numbers in rising order, and `none` computes only equal lengths together.
    """

    max_rows: int = Field(default=128, ge=1)
    max_bytes: int = Field(default=64 << 20, ge=1)
    max_wait_ms: float = Field(default=0.0, ge=0)
    adaptive: bool = True
    max_queue_requests: int = Field(default=1024, ge=1)
    max_queue_rows: int = Field(default=65_536, ge=1)
    timeout_ms: float | None = Field(default=60_000.0, gt=0)
    ageing_ms: float = Field(default=1000.0, ge=0)
    length_buckets: Literal["powers_of_two", "none"] | tuple[int, ...] = "powers_of_two"

    @field_validator("length_buckets")
    @classmethod
    def _rising(cls, value: str | tuple[int, ...]) -> str | tuple[int, ...]:
        if isinstance(value, tuple) and (not value or value[0] < 1 or list(value) != sorted(set(value))):
            raise ValueError(f"{list(value)} are no lengths in rising order, such as [32, 64, 128]")
        return value
