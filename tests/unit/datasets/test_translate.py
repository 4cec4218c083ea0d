from __future__ import annotations

import pytest
from ray.exceptions import RayTaskError

from lightmill.datasets.translate import original_error, user_errors
from lightmill.errors import RequestError, UnavailableError


def wrapped(cause: Exception) -> RayTaskError:
    return RayTaskError(function_name="f", traceback_str="...", cause=cause)


def test_the_error_behind_an_error_of_ray_is_raised() -> None:
    with pytest.raises(RequestError, match="row 3"), user_errors():
        raise wrapped(RequestError("row 3"))
    with pytest.raises(UnavailableError, match="gone"), user_errors():
        raise RuntimeError("outer") from UnavailableError("gone")


def test_of_an_error_that_is_ray_s_and_ours_at_once_only_ours_is_left() -> None:
    with pytest.raises(RequestError) as caught, user_errors():
        raise wrapped(RequestError("row 3")).as_instanceof_cause()
    assert type(caught.value) is RequestError and str(caught.value) == "row 3"


def test_an_error_of_ours_passes_as_it_is() -> None:
    problem = RequestError("plain")
    with pytest.raises(RequestError) as caught, user_errors():
        raise problem
    assert caught.value is problem


def test_what_has_no_error_of_ours_behind_it_stays() -> None:
    with pytest.raises(RayTaskError), user_errors():
        raise wrapped(ZeroDivisionError("x"))
    assert original_error(ValueError("x")) is None


def test_a_ring_of_causes_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert original_error(first) is None
