"""The platform's own doors for inference: who is let in, which door a path leads to, what is said of endpoints."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from lightmill.access import Identifier, mint_key
from lightmill.catalog import Catalog
from lightmill.control.gateway import KNOWN_FOR_S, Doors, PlatformGate, ServedEndpoints
from lightmill.errors import AuthenticationError, NotFoundError, UnavailableError
from lightmill.records.endpoints import EndpointState
from lightmill.records.specs import EndpointSpec

TEXT, KEY = mint_key("test")


def asked(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "headers": list(headers)}


def test_a_key_is_looked_at_and_those_that_were_added_are_known_half_a_second_later() -> None:
    now, keys = [100.0], []
    gate = PlatformGate(lambda: Identifier(keys), clock=lambda: now[0])
    good = asked((b"x-api-key", TEXT.encode()))
    for scope in (asked(), good):
        with pytest.raises(AuthenticationError):
            gate.admit(scope)
    keys.append(KEY)
    now[0] += KNOWN_FOR_S
    assert gate.admit(good).id == KEY.id
    keys.clear()
    now[0] += KNOWN_FOR_S
    with pytest.raises(AuthenticationError):
        gate.admit(good)


@pytest.mark.parametrize(
    ("path", "door"),
    [
        ("/v1/models/digits:predict", "gateway"),
        ("/v2/models/digits/infer", "gateway"),
        ("/v2/repository/index", "gateway"),
        ("/v2", "api"),
        ("/v2/health/ready", "api"),
        ("/api/v1/models", "api"),
        ("/v10", "api"),
    ],
)
def test_each_path_has_its_door(path: str, door: str) -> None:
    taken: list[str] = []

    def named(name: str) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            taken.append(name)

        return app

    async def nothing(*_: Any) -> Any:
        return None

    doors = Doors(named("api"), named("gateway"))
    asyncio.run(doors({"type": "http", "path": path}, nothing, nothing))
    asyncio.run(doors({"type": "lifespan"}, nothing, nothing))
    assert taken == [door, "api"]


def test_endpoints_are_those_of_the_catalog(tmp_path: Path) -> None:
    with Catalog.open(f"sqlite:///{tmp_path / 'catalog.db'}") as catalog:
        catalog.migrate()
        for name in ("digits", "gone"):
            catalog.endpoints.put(EndpointSpec(name=name, model="m"))
        catalog.endpoints.delete("gone")
        served = ServedEndpoints(catalog, None)  # pyright: ignore[reportArgumentType] - no version is opened here
        assert [(one.name, one.ready) for one in served.listed()] == [("digits", False)]
        for name, kind, words in (
            ("digits", UnavailableError, EndpointState.PENDING),
            ("gone", NotFoundError, "deleted"),
            ("nothing", NotFoundError, "digits"),
        ):
            with pytest.raises(kind, match=words):
                asyncio.run(served.describe(name))


def test_the_grpc_port_is_open_as_long_as_the_application_lives() -> None:
    told: list[str] = []

    class Port:
        async def start(self) -> int:
            told.append("open")
            return 1

        async def stop(self) -> None:
            told.append("closed")

    async def api(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            told.append((await receive())["type"])

    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        return next(messages)

    port: Any = Port()
    asyncio.run(Doors(api, api, port)({"type": "lifespan"}, receive, receive))
    assert told == ["open", "lifespan.startup", "closed", "lifespan.shutdown"]
