from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from lightmill.catalog import Catalog
from lightmill.errors import NotFoundError
from lightmill.records.endpoints import EndpointState
from lightmill.records.references import VersionId
from tests.unit.catalog.examples import spec, version_id

READY = EndpointState.READY


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """A catalog whose clock counts, so that every write shows."""
    ticks = itertools.count()
    with Catalog.open(url, clock=lambda: f"t{next(ticks):03d}") as catalog:
        catalog.migrate()
        yield catalog


def observe(catalog: Catalog, state: EndpointState = READY, version: VersionId | None = None, **more: int) -> None:
    catalog.endpoints.observe("digits", state=state, version=version, replicas=2, message="ok", **more)


def test_the_revision_grows_only_with_the_spec(catalog: Catalog) -> None:
    first = catalog.endpoints.put(spec())
    assert (first.revision, first.state, first.deleted) == (1, EndpointState.PENDING, False)
    assert first.created == first.updated != ""
    assert catalog.endpoints.put(spec()) == first == catalog.endpoints.get("digits")
    second = catalog.endpoints.put(spec(replicas=3))
    assert (second.revision, second.spec.replicas.max) == (2, 3)
    assert (second.created, second.updated > first.updated) == (first.created, True)


def test_a_new_spec_is_pending_until_it_was_seen(catalog: Catalog) -> None:
    catalog.endpoints.put(spec())
    observe(catalog, version=version_id("digits", 1))
    assert catalog.endpoints.put(spec()).state == READY
    changed = catalog.endpoints.put(spec(replicas=3))
    assert (changed.state, changed.version) == (EndpointState.PENDING, version_id("digits", 1))
    observe(catalog, revision=1)
    assert catalog.endpoints.get("digits").state == EndpointState.PENDING
    observe(catalog, revision=2)
    assert catalog.endpoints.get("digits").state == READY


def test_what_is_seen_is_written_only_when_it_changed(catalog: Catalog) -> None:
    catalog.endpoints.put(spec())
    observe(catalog, version=version_id("digits", 1))
    seen = catalog.endpoints.get("digits")
    assert (seen.state, seen.version, seen.replicas, seen.message) == (
        READY,
        version_id("digits", 1),
        2,
        "ok",
    )
    observe(catalog, version=version_id("digits", 1))
    assert catalog.endpoints.get("digits") == seen
    observe(catalog, version=None)
    assert catalog.endpoints.get("digits").version is None


def test_a_deleted_endpoint_stays_so_until_it_is_put_again(catalog: Catalog) -> None:
    catalog.endpoints.put(spec())
    catalog.endpoints.delete("digits")
    deleted = catalog.endpoints.get("digits")
    assert (deleted.deleted, deleted.state) == (True, EndpointState.DELETING)
    catalog.endpoints.delete("digits")
    assert catalog.endpoints.get("digits") == deleted
    observe(catalog)
    assert catalog.endpoints.get("digits").state == EndpointState.DELETING
    again = catalog.endpoints.put(spec())
    assert (again.deleted, again.state, again.revision) == (False, EndpointState.PENDING, 1)


def test_forget_removes_only_what_is_still_deleted(catalog: Catalog) -> None:
    catalog.endpoints.put(spec("a"))
    catalog.endpoints.put(spec("b"))
    catalog.endpoints.delete("a")
    catalog.endpoints.forget("a")
    catalog.endpoints.forget("b")
    catalog.endpoints.forget("never-was")
    assert [endpoint.name for endpoint in catalog.endpoints.list()] == ["b"]


def test_a_missing_endpoint_is_named_with_those_that_exist(catalog: Catalog) -> None:
    catalog.endpoints.put(spec("letters"))
    for call in (catalog.endpoints.get, catalog.endpoints.delete):
        with pytest.raises(NotFoundError, match=r"'digits'.*letters"):
            call("digits")
    with pytest.raises(NotFoundError, match="letters"):
        observe(catalog)
