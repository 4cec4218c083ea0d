from __future__ import annotations

import pytest

from lightmill.catalog import Catalog
from lightmill.errors import ConflictError, IntegrityError, NotFoundError
from lightmill.records.references import AssetKind
from tests.unit.catalog.examples import version, version_id


def test_a_recorded_version_comes_back_equal(catalog: Catalog) -> None:
    summary = version("digits", 1, dataset=version_id("rows", 2, AssetKind.DATASET))
    catalog.versions.record(summary, "default")
    assert catalog.versions.get(AssetKind.MODEL, "digits", 1) == summary


def test_recording_again_changes_nothing(catalog: Catalog) -> None:
    catalog.versions.record(version("digits", 1), "default")
    catalog.versions.record(version("digits", 1), "default")
    assert len(catalog.versions.list(AssetKind.MODEL, "digits")) == 1


def test_another_digest_for_a_known_number_is_an_integrity_error(catalog: Catalog) -> None:
    catalog.versions.record(version("digits", 1), "default")
    with pytest.raises(IntegrityError, match="digits@1"):
        catalog.versions.record(version("digits", 1, salt="forged"), "default")
    assert catalog.versions.list(AssetKind.MODEL, "digits") == [version("digits", 1)]


def test_versions_are_listed_newest_first(catalog: Catalog) -> None:
    for seq in (2, 10, 1):
        catalog.versions.record(version("digits", seq), "default")
    assert [summary.id.seq for summary in catalog.versions.list(AssetKind.MODEL, "digits")] == [10, 2, 1]
    assert catalog.versions.list(AssetKind.DATASET, "digits") == []


def test_what_is_missing_is_named_with_what_exists(catalog: Catalog) -> None:
    with pytest.raises(NotFoundError, match="none yet"):
        catalog.versions.asset(AssetKind.MODEL, "digits")
    for seq in (1, 2, 3, 5):
        catalog.versions.record(version("digits", seq), "default")
    with pytest.raises(NotFoundError, match="it has 1 to 3, 5"):
        catalog.versions.get(AssetKind.MODEL, "digits", 4)
    with pytest.raises(NotFoundError, match=r"No model named 'digitz'.*digits"):
        catalog.versions.get(AssetKind.MODEL, "digitz", 1)


def test_assets_are_sorted_by_name_and_carry_aliases(catalog: Catalog) -> None:
    for name, seq in (("zebra", 1), ("a-b", 1), ("ab", 1), ("ab", 2), ("a_b", 1)):
        catalog.versions.record(version(name, seq), "default")
    catalog.versions.record(version("ab", 7, kind=AssetKind.DATASET), "default")
    catalog.versions.set_alias(AssetKind.MODEL, "ab", "champion", 1, 1)
    catalog.versions.set_alias(AssetKind.MODEL, "ab", "canary", 2, 1)
    catalog.versions.set_alias(AssetKind.DATASET, "ab", "champion", 7, 1)
    found = catalog.versions.assets(AssetKind.MODEL)
    assert [asset.name for asset in found] == sorted(["zebra", "a-b", "ab", "a_b"])
    asset = catalog.versions.asset(AssetKind.MODEL, "ab")
    assert asset in found
    assert (asset.versions, asset.latest) == (2, 2)
    assert (asset.created[:10], asset.updated[:10]) == ("2025-01-01", "2025-01-02")
    assert asset.aliases == {"canary": 2, "champion": 1}


def test_an_alias_keeps_its_highest_move(catalog: Catalog) -> None:
    catalog.versions.record(version("digits", 1), "default")
    for seq, n in ((1, 1), (3, 3), (2, 2), (3, 3)):
        catalog.versions.set_alias(AssetKind.MODEL, "digits", "champion", seq, n)
    assert catalog.versions.asset(AssetKind.MODEL, "digits").aliases == {"champion": 3}
    with pytest.raises(IntegrityError, match="champion"):
        catalog.versions.set_alias(AssetKind.MODEL, "digits", "champion", 9, 3)


def test_an_alias_may_be_listed_before_its_version(catalog: Catalog) -> None:
    catalog.versions.set_alias(AssetKind.MODEL, "digits", "champion", 1, 1)
    assert catalog.versions.assets(AssetKind.MODEL) == []
    catalog.versions.record(version("digits", 1), "default")
    assert catalog.versions.asset(AssetKind.MODEL, "digits").aliases == {"champion": 1}


def test_lineage_goes_by_digest(catalog: Catalog) -> None:
    rows = version_id("rows", 1, AssetKind.DATASET)
    catalog.versions.record(version("digits", 1, dataset=rows), "default")
    catalog.versions.record(version("digits", 2), "default")
    catalog.versions.record(version("letters", 1, dataset=rows), "default")
    catalog.versions.record(version("run-1", 1, kind=AssetKind.RUN, dataset=rows), "default")
    found = [(s.id.kind, str(s.id)) for s in catalog.versions.derived_from(rows)]
    assert found == [("model", "digits@1"), ("model", "letters@1"), ("run", "run-1@1")]
    assert catalog.versions.derived_from(version_id("rows", 1, AssetKind.DATASET, salt="other")) == []


def test_two_workspaces_cannot_mix_their_names(catalog: Catalog) -> None:
    catalog.versions.record(version("digits", 1), "default")
    with pytest.raises(ConflictError, match="workspace 'default'"):
        catalog.versions.record(version("digits", 1, mid="other-mid"), "team-b")
    with pytest.raises(ConflictError, match="another asset"):
        catalog.versions.record(version("letters", 1, mid="mid-model-digits"), "team-b")
    assert [asset.name for asset in catalog.versions.assets(AssetKind.MODEL)] == ["digits"]
