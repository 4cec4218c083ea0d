"""The error tree: it pickles, and every branch has its status and exit code."""

from __future__ import annotations

import copy
import pickle

import pytest

from lightmill import errors
from lightmill.errors import LightmillError, error_named

TABLE = {
    "LightmillError": (500, 1),
    "RequestError": (400, 2),
    "NotFoundError": (404, 3),
    "ErasedError": (410, 3),
    "ConflictError": (409, 4),
    "MethodNotAllowedError": (405, 2),
    "TooLargeError": (413, 2),
    "TooManyRequestsError": (429, 2),
    "TooSlowError": (408, 2),
    "UnsupportedMediaError": (415, 2),
    "NotAcceptableError": (406, 2),
    "NotOfferedError": (501, 2),
    "AuthenticationError": (401, 5),
    "ForbiddenError": (403, 5),
    "IntegrityError": (500, 6),
    "UnavailableError": (503, 7),
    "TooBusyError": (503, 7),
    "DeadlineError": (504, 7),
    "JobError": (500, 8),
}


def tree(kind: type[LightmillError] = LightmillError) -> list[type[LightmillError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in tree(child))]


def test_status_and_exit_code_of_every_error() -> None:
    found = {kind.__name__: (kind.status, kind.exit_code) for kind in tree() if kind.__module__ == errors.__name__}
    assert found == TABLE


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_every_error_pickles_and_copies(kind: type[LightmillError]) -> None:
    for clone in (
        pickle.loads(pickle.dumps(kind("what, which, what next"))),
        copy.copy(kind("what, which, what next")),
    ):
        assert type(clone) is kind
        assert clone.message == str(clone) == "what, which, what next"


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_an_error_is_found_by_its_name(kind: type[LightmillError]) -> None:
    assert error_named(kind.__name__) is kind


def test_a_name_that_is_no_error_of_ours_is_the_base() -> None:
    for name in ("", "ValueError", "object", "KeyboardInterrupt"):
        assert error_named(name) is LightmillError


def test_only_one_branch_is_worth_a_retry() -> None:
    assert {kind for kind in tree() if kind.status in (503, 504)} == set(tree(errors.UnavailableError))


def test_when_to_come_again_travels_with_the_error() -> None:
    busy = pickle.loads(pickle.dumps(errors.TooBusyError("full", 2.5)))
    assert (busy.message, busy.retry_after_s) == ("full", 2.5)
