"""Versions of datasets through the client, over HTTP: compared, traced, described, tagged and found again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import lightmill
from lightmill.errors import NotFoundError, RequestError
from lightmill.sdk import Client
from tests.served import served
from tests.unit.datasets.published import HIDDEN, People, publish
from tests.unit.registry.world import World


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    world = World(tmp_path)
    publish(world.registry)
    publish(world.registry, People(rows=600, age=60))
    publish(world.registry, name="others")
    with served(world) as platform, lightmill.connect(platform.url, platform.key) as client:
        yield client


def test_versions_are_compared_traced_and_described(client: Client) -> None:
    found = client.datasets.diff("people@1", "people@latest")
    assert (found.old.seq, found.new.seq, found.shifts[0].name) == (1, 2, "age")
    row = client.datasets.row("people@1", 200)
    assert row == client.datasets.row("people@1", split="test", position=66) and row.source_row == 201
    assert client.datasets.card("people@2").startswith("---\npretty_name: people\n")
    body = client.datasets.croissant("people@1")
    assert body["conformsTo"].endswith("/1.1") and HIDDEN not in str(body)
    for wrong in (lambda: client.datasets.diff("people@1", "people@9"), lambda: client.datasets.row("people@1", -5)):
        with pytest.raises(NotFoundError):
            wrong()
    with pytest.raises(RequestError):
        client.datasets.row("people@1", split="dev")


def test_what_is_said_of_a_dataset_version_finds_it_again(client: Client) -> None:
    client.datasets.tag("people@1", {"quality": "gold"})
    client.datasets.describe("people@1", description="Those who *buy*.", limitations="Not for credit.")
    client.datasets.set_alias("people", "best", 1)
    for query in ("tag:quality=gold", "alias:best", "people tag:quality created>=2020-01-01"):
        assert [str(one.id) for one in client.datasets.search(query).versions] == ["people@1"], query
    assert client.datasets.search("tag:nobody").versions == ()
    card = client.datasets.card("people@1")
    assert "Those who *buy*." in card and "Not for credit." in card and "quality=gold" in card
    client.datasets.tag("people@1", unset=["quality"])
    assert client.datasets.search("tag:quality").versions == ()
    assert client.datasets.version("people@1").notes.text.limitations == "Not for credit."
