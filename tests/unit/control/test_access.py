"""Keys on the control plane: made, rotated, revoked, and on the board at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lightmill.access.jwks import IssuerBook
from lightmill.catalog import Catalog
from lightmill.control.access import AccessPublisher, KeyService
from lightmill.errors import AuthenticationError, ConflictError, ForbiddenError, NotFoundError, RequestError
from lightmill.records.base import iso_of, seconds_of
from lightmill.records.endpoints import EndpointState
from lightmill.records.keys import KeyRequest, KeyState
from lightmill.records.specs import EndpointSpec
from lightmill.serving.access_feed import MARK_KEY, AccessWatcher
from lightmill.serving.board import MemoryBoard
from lightmill.serving.gatekeeper import Gatekeeper
from tests.unit.access.issuing import ISSUER, jwks

NOON = seconds_of("2030-01-01T12:00:00Z")


class Site:
    """A catalog, its key service and publisher, and the door of one replica, with one clock."""

    def __init__(self, catalog: Catalog) -> None:
        self.now, self.changes = NOON, 0
        self.catalog, self.board = catalog, MemoryBoard()
        self.issuers = IssuerBook([ISSUER], lambda _: jwks("ec"))
        self.publisher = AccessPublisher(catalog, self.board, self.issuers)
        self.keys = KeyService(catalog, self._changed, wall=lambda: self.now)
        self.door = Gatekeeper("digits", wall=lambda: self.now, clock=lambda: self.now)
        self.watcher = AccessWatcher(self.board, self.door.renew)

    def _changed(self) -> None:
        self.changes += 1

    def spread(self) -> None:
        self.publisher.step()
        self.watcher.step()

    def ask(self, text: str) -> None:
        self.door.release(self.door.admit([(b"x-api-key", text.encode())]))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Catalog.open(f"sqlite:///{tmp_path / 'catalog.db'}") as catalog:
        catalog.migrate()
        yield Site(catalog)


def test_a_key_lives_from_its_making_to_its_revocation(site: Site) -> None:
    made = site.keys.create(KeyRequest(name="ci", scopes=("predict:digits",)))
    assert made.key.startswith(made.summary.prefix + "_") and made.summary.state is KeyState.ACTIVE
    site.spread()
    site.ask(made.key)
    rotated = site.keys.rotate(made.summary.prefix, 60)
    assert rotated.key != made.key and rotated.summary.old_until == iso_of(NOON + 60)
    site.spread()
    site.ask(made.key)
    site.ask(rotated.key)
    assert site.keys.list()[0].state is KeyState.ROTATING
    site.now += 60
    with pytest.raises(AuthenticationError, match="was rotated"):
        site.ask(made.key)
    assert site.keys.revoke(made.summary.id).state is KeyState.REVOKED
    site.spread()
    with pytest.raises(AuthenticationError):
        site.ask(rotated.key)
    assert site.changes == 3


def test_a_key_of_another_endpoint_stays_outside(site: Site) -> None:
    made = site.keys.create(KeyRequest(name="ci", scopes=("predict:other",)))
    site.spread()
    with pytest.raises(ForbiddenError):
        site.ask(made.key)


def test_what_cannot_be_done_is_said(site: Site) -> None:
    with pytest.raises(RequestError, match="has passed"):
        site.keys.create(KeyRequest(name="ci", expires=iso_of(NOON)))
    made = site.keys.create(KeyRequest(name="ci", expires=iso_of(NOON + 1)))
    with pytest.raises(NotFoundError, match=rf"there are: {made.summary.prefix} \(ci\)"):
        site.keys.rotate("lm_ffffffff", 1)
    with pytest.raises(NotFoundError):
        site.keys.revoke("nothing")
    site.now += 1
    with pytest.raises(ConflictError, match="no longer good"):
        site.keys.rotate(made.summary.id, 1)
    other = site.keys.create(KeyRequest(name="two"))
    site.keys.revoke(other.summary.id)
    with pytest.raises(ConflictError, match="no longer good"):
        site.keys.rotate(other.summary.id, 1)


def test_a_rotation_that_somebody_else_overtook_changes_nothing(site: Site) -> None:
    made = site.keys.create(KeyRequest(name="ci"))
    before = site.catalog.keys.by_id(made.summary.id)
    assert before is not None
    site.keys.rotate(made.summary.id, 1)
    with pytest.raises(ConflictError, match="by somebody else"):
        site.catalog.keys.replace_secret(before, before)


def test_the_board_is_written_when_something_changed_or_was_lost(site: Site) -> None:
    made = site.keys.create(KeyRequest(name="ci"))
    assert site.publisher.step() and not site.publisher.step()
    site.catalog.keys.used({made.summary.id: iso_of(NOON)})
    assert not site.publisher.step()  # who used a key when is nothing that replicas need
    site.board.delete(MARK_KEY)
    assert site.publisher.step()
    site.issuers.renew()
    assert site.publisher.step() and not site.publisher.step()


def test_replicas_are_told_how_many_they_are(site: Site) -> None:
    site.catalog.endpoints.put(EndpointSpec(name="digits", model="m"))
    site.catalog.endpoints.observe("digits", state=EndpointState.READY, version=None, replicas=3, message="")
    seen = []
    AccessWatcher(site.board, seen.append).step()
    site.publisher.step()
    AccessWatcher(site.board, seen.append).step()
    assert [found.replicas for found in seen] == [{"digits": 3}]


def test_last_use_only_moves_forward(site: Site) -> None:
    id = site.keys.create(KeyRequest(name="ci")).summary.id
    site.catalog.keys.used({id: "2030-01-02", "ffffffff": "2030-01-02"})
    site.catalog.keys.used({id: "2030-01-01"})
    assert site.keys.list()[0].last_used == "2030-01-02"
