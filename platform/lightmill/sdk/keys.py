"""API keys: make, list, rotate, revoke."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pydantic import ValidationError

from lightmill.errors import RequestError
from lightmill.records.access import ANY_ENDPOINT, LimitsSpec
from lightmill.records.base import Record, iso_of
from lightmill.records.keys import KeyRequest, KeySummary, MintedKey, RotateRequest
from lightmill.sdk.transport import Transport, path

RecordT = TypeVar("RecordT", bound=Record)


class ApiKeys:
    """The platform's API keys."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        name: str,
        scopes: Sequence[str] = (ANY_ENDPOINT,),
        *,
        expires: datetime | timedelta | None = None,
        limits: LimitsSpec | None = None,
    ) -> MintedKey:
        """Make a key; its text is in the answer and can be had from nowhere else.

        Args:
            name: What it is for.
            scopes: What it may do: `predict:<endpoint>`, `predict:*`, `metrics` or `admin`.
            expires: When, or after how long, it stops opening anything.
            limits: How much it may ask of one endpoint.

        Raises:
            RequestError: A scope is none, or the time has passed.
        """
        if isinstance(expires, timedelta):
            expires = datetime.now(UTC) + expires
        request = _checked(
            KeyRequest,
            {
                "name": name,
                "scopes": tuple(scopes),
                "expires": iso_of(expires.timestamp()) if expires else None,
                "limits": (limits or LimitsSpec()).model_dump(),
            },
        )
        return MintedKey.model_validate(self._transport.post(path("keys"), request.model_dump(mode="json")))

    def list(self) -> builtins.list[KeySummary]:
        """Return all keys, oldest first; nothing of their secrets is known."""
        return [KeySummary.model_validate(entry) for entry in self._transport.get(path("keys"))]

    def rotate(self, id: str, *, overlap: timedelta = timedelta(days=1)) -> MintedKey:
        """Give a key a new secret; the old one stays good for `overlap` beside it.

        Raises:
            NotFoundError: There is no such key.
            ConflictError: It is revoked or expired.
        """
        request = _checked(RotateRequest, {"overlap_s": overlap.total_seconds()})
        answer = self._transport.post(path("keys", id, "rotate"), request.model_dump(mode="json"))
        return MintedKey.model_validate(answer)

    def revoke(self, id: str) -> KeySummary:
        """Revoke a key: within two seconds no endpoint takes it any more; NotFoundError if there is none."""
        return KeySummary.model_validate(self._transport.delete(path("keys", id)))


def _checked(kind: type[RecordT], value: dict[str, Any]) -> RecordT:
    try:
        return kind.model_validate(value)
    except ValidationError as exc:
        problem = exc.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise RequestError(f"{key}: {problem['msg'].removeprefix('Value error, ')}.") from exc
