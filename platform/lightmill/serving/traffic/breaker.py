"""Stops asking who does not answer, so that requests do not wait for it one after the other."""

from __future__ import annotations

FAILURES = 3
PAUSE_S, PAUSE_MOST_S = 1.0, 30.0


class Breaker:
    """Opens after `FAILURES` in a row; then lets one request try after 1 s, 2 s, 4 s, and so on up to 30 s."""

    __slots__ = ("_failures", "_pause_s", "_until_s")

    def __init__(self) -> None:
        self._failures = 0
        self._pause_s = PAUSE_S
        self._until_s = 0.0

    def lets(self, now_s: float) -> bool:
        """Return whether a request may be sent now; one that is let through while it is open is the one that tries."""
        if self._failures < FAILURES:
            return True
        if now_s < self._until_s:
            return False
        self._until_s = now_s + self._pause_s
        return True

    def worked(self) -> None:
        """Take note of an answer."""
        self._failures, self._pause_s = 0, PAUSE_S

    def failed(self, now_s: float) -> None:
        """Take note that no answer came."""
        self._failures += 1
        if self._failures >= FAILURES:
            self._until_s = now_s + self._pause_s
            self._pause_s = min(self._pause_s * 2, PAUSE_MOST_S)
