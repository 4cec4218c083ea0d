"""What obstore raises becomes the port's errors: worth a retry or not, and without what may be secret."""

from __future__ import annotations

import pytest

from lightmill.errors import ConflictError, ForbiddenError, NotFoundError, RequestError, UnavailableError
from lightmill.storage.address import parse_address

exceptions = pytest.importorskip("obstore.exceptions", reason="obstore is not installed")
translation = pytest.importorskip("lightmill.storage.translation", reason="obstore is not installed")

ADDRESS = parse_address("s3://bucket/p?endpoint=http://127.0.0.1:9")
SECRET = "hunter2-do-not-show"


def answer(status: int, code: str = "Code") -> str:
    return (
        f"Generic S3 error: Error performing PUT http://127.0.0.1:9/bucket/p/a?sig={SECRET} in 1ms - Server returned "
        f"non-2xx status code: {status} X: <Error><Code>{code}</Code></Error>\n\nDebug source:\nsig={SECRET}"
    )


def caught(error: Exception) -> Exception:
    with pytest.raises(Exception) as info, translation.translated(ADDRESS, "b/name"):
        raise error
    assert SECRET not in f"{info.value!r} {info.value.__cause__!r}"
    assert not str(info.value) or "\n" not in str(info.value)
    return info.value


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (FileNotFoundError(answer(404, "NoSuchKey")), NotFoundError, "no object b/name"),
        (FileNotFoundError(answer(404, "NoSuchBucket")), RequestError, "no bucket 'bucket'"),
        (exceptions.GenericError(answer(404, "NoSuchBucket")), RequestError, "make it first"),
        (exceptions.AlreadyExistsError(answer(412)), ConflictError, "never overwritten"),
        (exceptions.PermissionDeniedError(answer(403, "AccessDenied")), ForbiddenError, "AccessDenied"),
        (exceptions.UnauthenticatedError(answer(401)), ForbiddenError, "AWS_ACCESS_KEY_ID"),
        (exceptions.GenericError(answer(403, "SignatureDoesNotMatch")), ForbiddenError, "SignatureDoesNotMatch"),
        (exceptions.GenericError(answer(400, "ExpiredToken")), ForbiddenError, "expired"),
        (exceptions.GenericError(answer(400, "RequestTimeout")), UnavailableError, "RequestTimeout"),
        (exceptions.GenericError(answer(301, "PermanentRedirect")), RequestError, "correct its region"),
        (exceptions.GenericError(answer(400, "InvalidRequest")), RequestError, "400 (InvalidRequest)"),
        (exceptions.GenericError(answer(501, "NotImplemented")), RequestError, "501 (NotImplemented)"),
        (exceptions.GenericError(answer(408)), UnavailableError, "408"),
        (exceptions.GenericError(answer(409, "OperationAborted")), UnavailableError, "OperationAborted"),
        (exceptions.GenericError(answer(429, "TooManyRequests")), UnavailableError, "try again"),
        (exceptions.GenericError(answer(500, "InternalError")), UnavailableError, "500 (InternalError)"),
        (exceptions.GenericError(answer(503, "SlowDown")), UnavailableError, "503 (SlowDown)"),
        (exceptions.GenericError("ConnectError ConnectionRefused"), UnavailableError, "refused"),
        (exceptions.GenericError("HttpError TimedOut"), UnavailableError, "timeout"),
        (exceptions.GenericError("HTTP error: request or response body error"), UnavailableError, "broke off"),
        (exceptions.NotSupportedError("Received non-partial response when range requested"), UnavailableError, "brok"),
        (exceptions.GenericError("GET http://169.254.169.254/x - HTTP error: TimedOut"), ForbiddenError, "missing"),
        (exceptions.GenericError(answer(500).replace("127.0.0.1:9", "169.254.169.254")), UnavailableError, "500"),
        (exceptions.GenericError(answer(416, "InvalidRange")), translation.RangeError, ""),
    ],
)
def test_an_error_is_told_by_its_blame(error: Exception, kind: type[Exception], said: str) -> None:
    found = caught(error)
    assert type(found) is kind and said in str(found)
    if kind is not translation.RangeError:
        assert ADDRESS.url in str(found)


def test_what_is_not_the_store_s_passes() -> None:
    for error in (KeyboardInterrupt(), TypeError("ours"), NotFoundError("ours")):
        with pytest.raises(type(error)) as info, translation.translated(ADDRESS, "a"):
            raise error
        assert info.value is error
