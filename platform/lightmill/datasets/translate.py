"""Ray wraps what a task raised; callers get the original error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayError

from lightmill.errors import LightmillError


def original_error(exc: BaseException) -> LightmillError | None:
    """Return the Lightmill error that lies behind an exception of Ray, if one does.

    Ray makes an error of a task an instance of both its own class and ours, whose text is a stack trace of the worker.
    """
    seen: set[int] = set()
    waiting: list[object] = [exc]
    while waiting:
        current = waiting.pop()
        if isinstance(current, LightmillError) and not isinstance(current, RayError):
            return current
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        waiting += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        waiting += list(getattr(current, "worker_failures", {}).values())
        waiting += [getattr(current, "controller_failure", None)]
    return None


@contextmanager
def user_errors() -> Iterator[None]:
    """Raise the Lightmill error behind an error of Ray, in place of the latter."""
    try:
        yield
    except (LightmillError, RayError, RuntimeError, ValueError) as exc:
        original = original_error(exc)
        if original is None or original is exc:
            raise
        raise type(original)(original.message) from exc
