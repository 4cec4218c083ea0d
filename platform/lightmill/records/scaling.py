"""How many replicas an endpoint has, and by which policy they become more or fewer."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lightmill.records.base import Record

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_A_DAY = 24 * 60
_TIME = re.compile(r"([01]\d|2[0-4]):([0-5]\d)")


class QueuePolicy(Record):
    """Ray Serve's own: as many replicas as hold ongoing requests at `target_ongoing_requests` each."""

    name: Literal["queue"] = "queue"


class LatencyPolicy(Record):
    """Holds the 99th percentile of latency below `objective_ms`.

    Above the objective replicas become more, at most `most_growth` times at once; below `relaxed` times the objective
    they become fewer one by one, unless the load that would be left for each is more than `busy` of what they took
    when the objective was last missed.
    """

    name: Literal["latency"] = "latency"
    objective_ms: float = Field(gt=0)
    relaxed: float = Field(default=0.6, gt=0, lt=1)
    most_growth: float = Field(default=2.0, gt=1)
    busy: float = Field(default=0.8, gt=0, le=1)


class ScheduleWindow(Record):
    """Some hours of some days: `days` as in cron (`mon-fri`, `sat,sun`, `*`), `start` and `end` as `HH:MM`.

    An end that is not after the start is one of the next day. Within, there are `min` to `max` replicas.
    """

    days: str = "*"
    start: str = "00:00"
    end: str = "24:00"
    min: int = Field(ge=0)
    max: int | None = Field(default=None, ge=1)

    @field_validator("days")
    @classmethod
    def _days(cls, value: str) -> str:
        days_of(value)
        return value

    @field_validator("start", "end")
    @classmethod
    def _time(cls, value: str) -> str:
        minute_of(value)
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class SchedulePolicy(Record):
    """`queue` between the bounds of the first window that is open; outside of all, between those of the endpoint.

    `lead_s` opens a window earlier by the time that a replica takes to start.
    """

    name: Literal["schedule"] = "schedule"
    timezone: str = "UTC"
    windows: tuple[ScheduleWindow, ...] = Field(min_length=1)
    lead_s: float = Field(default=60.0, ge=0)

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as exc:
            raise ValueError(f"{value!r} is no time zone, such as Europe/Berlin") from exc
        return value


class ForecastPolicy(Record):
    """Foresees arrivals from those of earlier seasons, and has replicas ready when they come.

    Arrivals are counted in parts of `bucket_s`; `season_s` is when they repeat, a day by default. `seasonal_naive`
    takes those of a season before, moved by how this season differs from that one; `holt_winters` smooths level, trend
    and season. A replica takes `requests_per_s`; without it, what is seen when replicas are at their target. `lead_s`
    is how long one takes to start, and `headroom` how many times the forecast there is room for. Before a season was
    seen, and whenever more wait than foreseen, it is `queue`.
    """

    name: Literal["forecast"] = "forecast"
    method: Literal["seasonal_naive", "holt_winters"] = "holt_winters"
    season_s: float = Field(default=86_400.0, gt=0)
    bucket_s: float = Field(default=300.0, gt=0)
    requests_per_s: float | None = Field(default=None, gt=0)
    lead_s: float = Field(default=60.0, ge=0)
    headroom: float = Field(default=1.2, ge=1)

    @model_validator(mode="after")
    def _parts(self) -> Self:
        parts = self.season_s / self.bucket_s
        if not 2 <= parts <= 2016 or abs(parts - round(parts)) > 1e-9:
            raise ValueError(
                f"season_s {self.season_s:g} has {parts:g} parts of bucket_s {self.bucket_s:g}; a season has 2 to 2016 "
                "whole ones"
            )
        return self

    @property
    def buckets(self) -> int:
        """How many parts a season has."""
        return round(self.season_s / self.bucket_s)


def _named(value: Any) -> Any:
    """Return a bare name as a record with that name."""
    return {"name": value} if isinstance(value, str) else value


ScalingPolicy = Annotated[
    QueuePolicy | LatencyPolicy | SchedulePolicy | ForecastPolicy, Field(discriminator="name"), BeforeValidator(_named)
]


class ReplicasSpec(Record):
    """How many replicas: between `min` and `max`, as `policy` says.

    With a `min` of 0 the last replica goes after `downscale_to_zero_delay_s` without a request; the next request waits
    for a replica to start. Load is averaged over `look_back_s`.
    """

    min: int = Field(default=1, ge=0)
    max: int = Field(default=1, ge=1)
    target_ongoing_requests: float = Field(default=16, gt=0)
    upscale_delay_s: float = Field(default=10, ge=0)
    downscale_delay_s: float = Field(default=300, ge=0)
    downscale_to_zero_delay_s: float | None = Field(default=None, ge=0)
    look_back_s: float = Field(default=30.0, gt=10)
    policy: ScalingPolicy = QueuePolicy()

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        if isinstance(self.policy, SchedulePolicy):
            for window in self.policy.windows:
                if max(window.min, window.max or 0) > self.max:
                    raise ValueError(f"a window of the schedule has more replicas than max {self.max}; raise max")
        return self


def days_of(text: str) -> frozenset[int]:
    """Return the days of the week that cron's `mon-fri,sun` names, 0 for Monday.

    Raises:
        ValueError: It names none.
    """
    found: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.strip().partition("-")
        if first == "*" and not last:
            found.update(range(7))
            continue
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"{text!r} names no days of the week, such as mon-fri or sat,sun, or * for all")
        at, end = DAYS.index(first), DAYS.index(last or first)
        found.update((at + n) % 7 for n in range((end - at) % 7 + 1))
    return frozenset(found)


def minute_of(text: str) -> int:
    """Return the minute of the day that `HH:MM` is, up to 24:00.

    Raises:
        ValueError: It is none.
    """
    match = _TIME.fullmatch(text)
    minute = int(match[1]) * 60 + int(match[2]) if match else -1
    if not 0 <= minute <= MINUTES_A_DAY:
        raise ValueError(f"{text!r} is no time of a day from 00:00 to 24:00")
    return minute
