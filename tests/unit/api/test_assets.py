"""Datasets and models through the client, over HTTP, to a registry on a store."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

import lightmill
from lightmill.errors import ConflictError, NotFoundError, RequestError
from lightmill.records.assets import Provenance
from lightmill.records.endpoints import EndpointState
from lightmill.records.profile import PROFILE_FILE, ProfileRecord
from lightmill.records.references import AssetKind, VersionId, parse_reference
from lightmill.records.search import parse_comparisons
from lightmill.records.specs import EndpointSpec
from lightmill.registry import Content, Registry
from lightmill.sdk import Client, ProfileView
from tests.attacks.scene import dataset_card, publish_dataset
from tests.served import Served, served
from tests.unit.registry.world import MODEL, World, seal, weights

ROWS = pa.table({"row_id": [0, 1], "label": [0, 1], "ink": [0.5, 1.5]})


def publish_from(registry: Registry, dataset: VersionId, base: VersionId | None = None, name: str = "m") -> VersionId:
    draft = registry.begin(MODEL, name)
    content = seal(draft, weights())
    provenance = Provenance(dataset=dataset, base=base, run="run-1", packages={"ray": "2.60.0"})
    from dataclasses import replace

    return registry.commit(draft, replace(content, provenance=provenance)).id


def fill(world: World) -> None:
    """A dataset, two versions of a model from it, a child of the first, an endpoint on the second."""
    rows = publish_dataset(world.registry, "d", ROWS)
    first = publish_from(world.registry, rows)
    second = publish_from(world.registry, rows)
    publish_from(world.registry, rows, base=first, name="child")
    world.registry.set_alias(MODEL, "m", "champion", 1)
    world.registry.set_alias(MODEL, "m", "champion", 2)
    world.catalog.endpoints.put(EndpointSpec(name="shop", model="m@champion"))
    world.catalog.endpoints.observe("shop", state=EndpointState.READY, version=second, replicas=1, message="")


@pytest.fixture
def platform(world: World) -> Iterator[Served]:
    fill(world)
    with served(world, parse_comparisons("loss<=0.5")) as found:
        yield found


@pytest.fixture
def client(platform: Served) -> Iterator[Client]:
    with lightmill.connect(platform.url, platform.key) as client:
        yield client


def test_lists_and_details(client: Client) -> None:
    assert [asset.name for asset in client.models.list()] == ["child", "m"]
    detail = client.models.show("m")
    assert [version.id.seq for version in detail.versions] == [2, 1]
    version = client.models.version("m@champion")
    assert version.version.id.seq == 2 and version.endpoints == ("shop",)
    assert version.dataset is not None and version.dataset.id.name == "d"
    assert client.datasets.version("d@1").derived == ("model child@1", "model m@2", "model m@1")


def test_lineage_goes_both_ways(client: Client) -> None:
    found = client.models.lineage("m@1")
    assert found.dataset is not None and str(found.dataset.id) == "d@1"
    assert [(source.name, source.sha256) for source in found.sources] == [("a.csv", "00")]
    assert (found.version.provenance.run, found.version.provenance.packages) == ("run-1", {"ray": "2.60.0"})
    assert [str(child.id) for child in found.children] == ["child@1"] and found.endpoints == ()
    child = client.models.lineage("child@1")
    assert child.base is not None and str(child.base.id) == "m@1"
    rows = client.datasets.lineage("d@1")
    assert rows.dataset is None and rows.sources == found.sources
    assert {str(child.id): child.endpoints for child in rows.children} == {"child@1": (), "m@2": ("shop",), "m@1": ()}


def test_an_alias_is_rolled_back_and_the_loop_is_woken(platform: Served, client: Client) -> None:
    moves = client.models.alias_history("m", "champion")
    assert [(move.source, move.target) for move in moves] == [(0, 1), (1, 2)]
    assert client.models.roll_back("m", "champion").aliases == {"champion": 1}
    assert client.models.roll_back("m", "champion", to=2).aliases == {"champion": 2}
    assert len(platform.woken) == 2
    with pytest.raises(NotFoundError, match="never pointed"):
        client.models.roll_back("m", "champion", to=7)


def test_a_version_is_deleted_unless_it_is_used(client: Client) -> None:
    with pytest.raises(ConflictError, match="alias 'champion', endpoint 'shop'"):
        client.models.delete("m", 2, "bad")
    gone = client.models.delete("m", 1, "bad / 100% wrong & so on")
    assert gone.deleted is not None and gone.deleted.reason == "bad / 100% wrong & so on"
    assert [version.id.seq for version in client.models.show("m").versions] == [2]
    assert [version.id.seq for version in client.models.show("m", deleted=True).versions] == [2, 1]
    with pytest.raises(NotFoundError, match="deleted"):
        client.models.version("m@1")
    client.models.delete("child", 1, "bad")
    assert [asset.name for asset in client.models.list()] == ["m"]
    assert [asset.name for asset in client.models.list(deleted=True)] == ["child", "m"]


def test_tags_text_and_evaluations_are_said_and_shown_on_the_card(client: Client) -> None:
    client.models.tag("m@2", {"team": "vision"})
    client.models.describe("m@2", description="Reads digits.", limitations="No letters.")
    notes = client.models.evaluate("m@2", dataset="d@1", metrics={"loss": 0.2}, by="me").notes
    assert notes.tags == {"team": "vision"} and notes.evaluations[0].dataset.name == "d"
    card = client.models.card("m@2")
    for part in (
        "# m@2",
        "Reads digits.",
        "No letters.",
        "`team=vision`",
        "loss 0.2",
        "test_accuracy | 0.5",
        "d@1",
        "shop",
    ):
        assert part in card
    assert client.models.tag("m@2", unset=["team"]).notes.tags == {}
    assert client.datasets.tag("d@1", {"quality": "gold"}).notes.tags == {"quality": "gold"}
    for wrong in ({"Team": "x"}, {"team": ""}):
        with pytest.raises(RequestError):
            client.models.tag("m@2", wrong)
    with pytest.raises(RequestError):
        client.models.evaluate("m@2", dataset="d@1", metrics={"a b": 0.2}, by="me")


def test_promotion_says_what_is_missing(client: Client) -> None:
    assert client.models.promote("m@2", "staging").notes.stage == "staging"
    with pytest.raises(ConflictError, match="needs an evaluation on the validation or test split"):
        client.models.promote("m@2", "production")
    client.models.evaluate("m@2", dataset="d@1", metrics={"loss": 0.2, "accuracy": 0.8}, by="me")
    with pytest.raises(ConflictError, match="accuracy>=0.9.*measured 0.8"):
        client.models.promote("m@2", "production", required=["accuracy>=0.9"])
    client.models.evaluate("m@1", dataset="d@1", metrics={"loss": 0.7}, by="me")
    with pytest.raises(ConflictError, match="loss<=0.5"):
        client.models.promote("m@1", "production")
    assert client.models.promote("m@2", "production", required=["accuracy>=0.8"]).notes.stage == "production"
    assert client.models.promote("m@2", "production").notes.stage == "production"
    with pytest.raises(RequestError):
        client.models.promote("m@2", "production", required=["accuracy"])
    assert [str(version.id) for version in client.models.search_all("stage:production")] == ["m@2"]


def test_evidence_that_was_written_into_the_catalog_alone_does_not_count(platform: Served, client: Client) -> None:
    client.models.evaluate("m@2", dataset="d@1", metrics={"loss": 0.2}, by="me")
    mid, said = platform.world.registry.mid(MODEL, "m"), client.models.version("m@2").notes
    from lightmill.records.annotations import Evaluated

    platform.world.catalog.notes.apply(mid, 1, 2, "forged", Evaluated(evaluation=said.evaluations[0]))
    assert client.models.version("m@1").notes.evaluations
    with pytest.raises(Exception, match="rolled back|evaluation"):
        client.models.promote("m@1", "production")


def test_versions_are_searched_page_by_page(client: Client) -> None:
    client.models.tag("m@1", {"team": "vision"})
    assert [str(v.id) for v in client.models.search("m tag:team=vision metrics.test_accuracy>=0.5").versions] == ["m@1"]
    first = client.models.search("", sort="name", limit=2)
    rest = client.models.search("", sort="name", limit=2, after=first.next or "")
    assert [str(v.id) for v in (*first.versions, *rest.versions)] == ["child@1", "m@1", "m@2"]
    assert rest.next is None
    assert [str(v.id) for v in client.datasets.search("").versions] == ["d@1"]
    for query, sort, after in (("colour:red", "-created", ""), ("", "colour", ""), ("", "name", "nonsense")):
        with pytest.raises(RequestError):
            client.models.search(query, sort=sort, after=after)


def test_long_lists_are_fetched_page_by_page(platform: Served, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightmill.sdk import assets

    monkeypatch.setattr(assets, "PAGE_MAX", 1)
    assert [asset.name for asset in client.models.list()] == ["child", "m"]
    assert len(list(client.models.search_all())) == 3


WRONG = [
    ("PUT", "models/m/versions/1/tags", {"set": {"a": 1}}, 400),
    ("PUT", "models/m/versions/1/tags", {"colour": "red"}, 400),
    ("PUT", "models/m/versions/9/tags", {"set": {"a": "b"}}, 404),
    ("PUT", "models/m/versions/1/stage", {"stage": "prod"}, 400),
    ("PUT", "datasets/d/versions/1/stage", {"stage": "staging"}, 404),
    (
        "POST",
        "models/m/versions/1/evaluations",
        {"dataset": "d", "split": "all", "metrics": {"a": 1}, "by": "x"},
        400,
    ),
    ("POST", "models/m/versions/1/evaluations", {"dataset": "d", "split": "test", "metrics": {}, "by": "x"}, 400),
    ("DELETE", "models/m/versions/1", None, 400),
    ("DELETE", "models/m/versions/0?reason=x", None, 400),
    ("DELETE", "models/m/versions/latest?reason=x", None, 400),
    ("GET", "search/models?limit=0", None, 400),
    ("GET", "models?limit=1001", None, 400),
    ("POST", "models/m/aliases/champion/rollback", {"to": 0}, 400),
    ("GET", "models/m/aliases/nobody", None, 404),
]


def test_wrong_requests_are_refused_in_one_form(platform: Served) -> None:
    headers = {"X-API-Key": platform.key}
    for method, path, body, status in WRONG:
        answer = httpx.request(method, f"{platform.url}/api/v1/{path}", json=body, headers=headers)
        assert answer.status_code == status, (path, body, answer.text)
        assert answer.json().keys() == {"error", "type"}


def test_without_a_key_nothing_is_said_or_deleted(platform: Served) -> None:
    for method, path in (("DELETE", "models/m/versions/1?reason=x"), ("PUT", "models/m/versions/1/tags")):
        assert httpx.request(method, f"{platform.url}/api/v1/{path}").status_code == 401
    assert platform.world.registry.resolve(AssetKind.MODEL, parse_reference("m@1")).seq == 1


def test_a_profile_comes_as_numbers_and_as_a_page_that_a_notebook_shows(world: World, client: Client) -> None:
    with pytest.raises(NotFoundError, match="has no profile"):
        client.datasets.profile("d@1")
    record = ProfileRecord(name="d <b>", rows_in=3, rows=2)
    draft = world.registry.begin(AssetKind.DATASET, "d")
    sealed = draft.seal_files({PROFILE_FILE: record.model_dump_json().encode()})
    world.registry.commit(draft, Content(files=sealed.files, blobs=sealed.blobs, dataset=dataset_card()))
    view = client.datasets.profile("d@2")
    assert view.record == record and view.page.startswith("<!doctype html>")
    shown = view._repr_html_()
    assert shown.startswith('<iframe sandbox="" ') and "<main" not in shown and "d &lt;b&gt;" in shown
    assert html.unescape(shown.partition('srcdoc="')[2].partition('"')[0]) == view.page
    assert view.page not in repr(view)
    answer = httpx.get(
        f"{client.url}/api/v1/datasets/d/versions/2/profile.html",
        headers={"Authorization": client._transport._client.headers["Authorization"]},
    )
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    with pytest.raises(NotFoundError):
        client.datasets.profile("nobody")


def test_a_saved_profile_is_the_page(tmp_path: Path) -> None:
    view = ProfileView(record=ProfileRecord(name="d", rows_in=1, rows=1), page="<!doctype html>ä")
    assert view.save(tmp_path / "p.html").read_text(encoding="utf-8") == view.page
