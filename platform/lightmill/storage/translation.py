"""Turning what obstore raises into the errors of the port.

The text of a foreign error is read for its status and code and never shown: it may hold a signed URL. What
stays attached as the cause is its first line, without queries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError

from lightmill.errors import ConflictError, ForbiddenError, NotFoundError, RequestError, UnavailableError
from lightmill.storage.address import RemoteAddress

CONFLICT: Final = 409
RANGE_NOT_SATISFIABLE: Final = 416
_RETRIED_STATUSES: Final = (408, 409, 425, 429)
_RETRIED_CODES: Final = ("RequestTimeout",)  # S3 sends it with status 400
_REFUSED_CODES: Final = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")  # these too
_NO_BUCKET: Final = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
_METADATA_HOSTS: Final = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>")
_REASONS: Final = {
    "ConnectionRefused": "the connection was refused; start the service or correct the endpoint",
    "TimedOut": "no answer within the timeout",
    "dns error": "its name cannot be resolved; correct the endpoint or the network",
    "UnknownIssuer": "its certificate is not trusted; install the authority's certificate",
    "ConnectionReset": "the connection was reset",
}


class RangeError(Exception):
    """The object ends before the range that was asked for; the adapter finds out by how much."""


@contextmanager
def translated(address: RemoteAddress, name: str) -> Iterator[None]:
    """Turn obstore's errors about an object, or a prefix, into those of the port.

    Raises:
        NotFoundError: When there is no such object.
        ConflictError: When the name exists.
        ForbiddenError: When the credentials are missing, wrong, or lack a right. A retry does not help.
        RequestError: When there is no such bucket, or the request is refused for another reason of ours.
        UnavailableError: When the store does not answer, answers with a fault of its own, or asks for patience.
        RangeError: When the object ends before the range.
    """
    try:
        yield
    except FileNotFoundError as exc:
        raise _absent(address, name, str(exc)) from _shown(exc)
    except AlreadyExistsError as exc:
        raise ConflictError(f"{name} exists already in {address.url}; objects are never overwritten") from _shown(exc)
    except (PermissionDeniedError, UnauthenticatedError) as exc:
        raise _forbidden(address, name, str(exc)) from _shown(exc)
    except (BaseError, OSError, ValueError) as exc:
        raise _other(address, name, str(exc)) from _shown(exc)


@contextmanager
def opening(address: RemoteAddress) -> Iterator[None]:
    """Turn what obstore says of its configuration into an error of the caller, without any value.

    Raises:
        RequestError: When an option or a variable of the environment is missing or malformed.
    """
    try:
        yield
    except (BaseError, OSError, ValueError) as exc:
        reason = re.sub(r'"[^"]*"', '"..."', _shown(exc).args[0])
        raise RequestError(
            f"The store at {address.url} cannot be opened: {reason}. Correct its URL or the environment: "
            f"{address.credentials}"
        ) from None


def status_of(error: BaseException | None) -> int | None:
    """Return the HTTP status that an error of obstore, or its shown cause, tells of."""
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _absent(address: RemoteAddress, name: str, text: str) -> RequestError:
    if any(code in text for code in _NO_BUCKET):
        return RequestError(f"There is no bucket {address.bucket!r} for the store at {address.url}; make it first")
    return NotFoundError(f"There is no object {name} in {address.url}")


def _forbidden(address: RemoteAddress, name: str, text: str) -> ForbiddenError:
    return ForbiddenError(
        f"The store at {address.url} refuses {name}{_code(text)}: the credentials are missing, wrong or expired, or "
        f"lack the right to read, write, list and delete. They come from the environment: {address.credentials}"
    )


def _other(address: RemoteAddress, name: str, text: str) -> Exception:
    status = status_of(ValueError(text))
    if status == RANGE_NOT_SATISFIABLE or "Wanted range" in text:
        return RangeError(name)
    if any(host in text for host in _METADATA_HOSTS) and (status is None or status < 500):
        return _forbidden(address, name, "")
    code = _CODE.search(text)
    if status in (401, 403) or (code and code[1] in _REFUSED_CODES):
        return _forbidden(address, name, text)
    if any(code in text for code in _NO_BUCKET):
        return _absent(address, name, text)
    passing = status is None or 200 <= status < 300 or status in _RETRIED_STATUSES or (status >= 500 and status != 501)
    if not passing and not (code and code[1] in _RETRIED_CODES):
        return RequestError(
            f"The store at {address.url} refuses {name} with status {status}{_code(text)}; correct its region, "
            "endpoint or addressing"
        )
    return UnavailableError(f"The store at {address.url} fails for {name}: {_reason(text, status)}")


def _reason(text: str, status: int | None) -> str:
    if status is not None and status >= 300:
        return f"it answers with status {status}{_code(text)}; try again later"
    for word, reason in _REASONS.items():
        if word in text:
            return reason
    return "the answer is broken or broke off"


def _code(text: str) -> str:
    found = _CODE.search(text)
    return f" ({found[1]})" if found else ""


def _shown(exc: Exception) -> Exception:
    """Return the error without what may hold a secret: queries of URLs, and everything after the first line."""
    line = str(exc).split("\n", 1)[0]
    return type(exc)(re.sub(r"\?[^\s\"')>]*", "?...", line)[:500])
