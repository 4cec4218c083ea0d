"""How requests are spread over the replicas of an endpoint."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from lightmill.records.base import Record

BalancingName = Literal["round_robin", "random", "weighted", "power_of_two", "least_loaded", "hash", "prefix"]
NOT_AT_ENDPOINTS: tuple[BalancingName, ...] = ("weighted", "prefix")
"""What HAProxy cannot do; Serve lets no router of ours choose among the replicas of an ingress."""
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


class BalancingSpec(Record):
    """Which replica gets a request.

    `hash` sends requests with the same value of `header` to the same replica, `prefix` those whose first
    `prefix_length` characters are the same; both let no replica have more than `bound` times the mean load, and
    without a key or header the choice is that of `least_loaded`. `weighted` follows the weights that replicas report;
    without, all are equal.
    """

    name: BalancingName = "least_loaded"
    header: str = "x-session-id"
    prefix_length: int = Field(default=256, ge=1)
    bound: float = Field(default=1.25, gt=1, le=10)

    @field_validator("header")
    @classmethod
    def _header(cls, value: str) -> str:
        found = value.lower()
        if not found or not set(found) <= _TOKEN:
            raise ValueError(f"{value!r} is no name of an HTTP header, such as x-session-id")
        return found


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Balancing = Annotated[BalancingSpec, BeforeValidator(_named)]
"""`balancing: round_robin` means `balancing: {name: round_robin}`."""
