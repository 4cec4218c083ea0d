"""`schedule`: bounds that follow the clock on the wall; between them, `queue`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from lightmill.records.scaling import SchedulePolicy, ScheduleWindow, days_of, minute_of


def bounds_at(policy: SchedulePolicy, now_s: float, least: int, most: int) -> tuple[int, int]:
    """Return the fewest and the most replicas at Unix time `now_s`; `least` and `most` outside of all windows.

    A window is open from `lead_s` before its start, when replicas have to begin to start, until its end.
    """
    zone = ZoneInfo(policy.timezone)
    moments = [datetime.fromtimestamp(at_s, UTC).astimezone(zone) for at_s in (now_s, now_s + policy.lead_s)]
    for window in policy.windows:
        if any(is_open(window, moment) for moment in moments):
            return window.min, most if window.max is None else window.max
    return least, most


def is_open(window: ScheduleWindow, moment: datetime) -> bool:
    """Whether a moment, in local time, is within a window; one past midnight belongs to the day it begins on."""
    minute = moment.hour * 60 + moment.minute
    start, end = minute_of(window.start), minute_of(window.end)
    days = days_of(window.days)
    if start < end:
        return moment.weekday() in days and start <= minute < end
    yesterday = (moment - timedelta(days=1)).weekday()
    return (moment.weekday() in days and minute >= start) or (yesterday in days and minute < end)
