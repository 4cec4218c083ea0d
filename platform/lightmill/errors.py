"""The error tree, split by blame.

LightmillError
├── RequestError            the caller asked for something wrong; 4xx; never retried
│   ├── AuthenticationError no key, or a wrong one
│   ├── ForbiddenError      a good key without the right
│   ├── NotFoundError       what was named does not exist
│   │   └── ErasedError     it existed; its root key was destroyed on purpose
│   ├── ConflictError       what was to be created exists, or changed meanwhile
│   ├── MethodNotAllowedError  the route exists, but not with this method
│   ├── TooLargeError       more bytes than are taken
│   ├── TooManyRequestsError  more requests than the key may make; 429, with the time to come again
│   ├── TooSlowError        a body that did not come in time
│   ├── UnsupportedMediaError  a body in a form that is not read here
│   ├── NotAcceptableError  an answer is wanted in a form that is not written here
│   └── NotOfferedError     a part of a protocol that is known and not offered; 501
├── IntegrityError          the bytes are not what was written; loud; never retried
├── UnavailableError        try later; 503; the only branch that a retry touches
│   ├── TooBusyError        the queue is full; says after how many seconds to come again
│   └── DeadlineError       the answer would have come too late; 504
└── JobError                a job ran and failed; its log says why

A message says what was wrong, which value, and what to do next. Every error pickles, since errors cross
actors: the message is all that a constructor must be given.
"""

from __future__ import annotations

from typing import ClassVar


class LightmillError(Exception):
    """Base of every error that Lightmill raises on purpose.

    Attributes:
        status: The HTTP status that carries this error.
        exit_code: The exit code of a command that ends with it.
    """

    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestError(LightmillError):
    """The caller asked for something wrong: a bad specification, value, shape or path."""

    status = 400
    exit_code = 2


class NotFoundError(RequestError):
    """What was named does not exist."""

    status = 404
    exit_code = 3


class ErasedError(NotFoundError):
    """What was named was erased: its root key was destroyed on purpose, and a receipt says when."""

    status = 410


class ConflictError(RequestError):
    """What was to be created exists already, or was changed by somebody else meanwhile."""

    status = 409
    exit_code = 4


class AuthenticationError(RequestError):
    """No API key was given, or it is wrong, expired or revoked."""

    status = 401
    exit_code = 5


class ForbiddenError(RequestError):
    """The key is good but does not allow this."""

    status = 403
    exit_code = 5


class MethodNotAllowedError(RequestError):
    """The route exists, but not with this method."""

    status = 405


class TooLargeError(RequestError):
    """The body is larger than the receiver takes."""

    status = 413


class TooManyRequestsError(RequestError):
    """The key makes more requests than it may; `retry_after_s` says when the next one is let in."""

    status = 429

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooSlowError(RequestError):
    """The body did not come in time."""

    status = 408


class UnsupportedMediaError(RequestError):
    """The body has a form, or an encoding, that is not read here."""

    status = 415


class NotAcceptableError(RequestError):
    """The answer is wanted in a form that is not written here."""

    status = 406


class NotOfferedError(RequestError):
    """What was asked for belongs to the protocol, but this platform does not offer it."""

    status = 501


class IntegrityError(LightmillError):
    """Stored bytes are not what was written: tampering, damage, or the wrong key ring."""

    status = 500
    exit_code = 6


class UnavailableError(LightmillError):
    """Something the platform needs does not answer now; trying again later may succeed."""

    status = 503
    exit_code = 7


class TooBusyError(UnavailableError):
    """More requests wait than are let in; `retry_after_s` says when there is likely to be room."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(UnavailableError):
    """The request's deadline passed before its answer was there."""

    status = 504


class JobError(LightmillError):
    """A job ran and failed."""

    status = 500
    exit_code = 8


def error_named(name: str) -> type[LightmillError]:
    """Return the error class with this name, or LightmillError when there is none."""
    found: dict[str, type[LightmillError]] = {}
    waiting: list[type[LightmillError]] = [LightmillError]
    while waiting:
        kind = waiting.pop()
        found[kind.__name__] = kind
        waiting.extend(kind.__subclasses__())
    return found.get(name, LightmillError)
