from __future__ import annotations

import pytest

from lightmill.access import mint_key, rotate_key
from lightmill.catalog import Catalog
from lightmill.errors import ConflictError, NotFoundError
from lightmill.records.access import LimitsSpec
from lightmill.records.jobs import EpochMetrics


def metrics(epoch: int, loss: float = 1.0, run: str = "run-1") -> EpochMetrics:
    return EpochMetrics(run=run, epoch=epoch, metrics={"loss": loss}, created="2025-01-01T00:00:00.000Z")


def test_epochs_come_in_order_and_a_repeated_one_replaces(catalog: Catalog) -> None:
    for each in (metrics(2), metrics(10), metrics(1), metrics(2, loss=0.5), metrics(1, run="run-2")):
        catalog.runs.record_epoch(each)
    assert catalog.runs.epochs("run-1") == [metrics(1), metrics(2, loss=0.5), metrics(10)]
    assert catalog.runs.epochs("nobody") == []


def test_keys_are_added_found_and_revoked_once(catalog: Catalog) -> None:
    (_, first), (_, second) = mint_key("ci"), mint_key("laptop", role="reader")
    catalog.keys.add(first)
    catalog.keys.add(second)
    assert {key.id for key in catalog.keys.list()} == {first.id, second.id}
    assert catalog.keys.by_id(second.id) == second
    assert catalog.keys.by_id("00000000") is None
    catalog.keys.revoke(first.id, "t1")
    catalog.keys.revoke(first.id, "t2")
    revoked = catalog.keys.by_id(first.id)
    assert revoked is not None
    assert revoked.revoked == "t1"
    assert catalog.keys.by_id(second.id) == second


def test_a_key_id_is_used_once_and_a_missing_one_is_named(catalog: Catalog) -> None:
    _, key = mint_key("ci")
    catalog.keys.add(key)
    with pytest.raises(ConflictError, match=key.id):
        catalog.keys.add(key)
    with pytest.raises(NotFoundError, match=key.id):
        catalog.keys.revoke("ffffffff", "t1")


def test_a_key_keeps_all_that_it_was_given(catalog: Catalog) -> None:
    limits = LimitsSpec(requests_per_s=2.5, burst=3, concurrency=1)
    _, key = mint_key("ci", scopes=("predict:a", "metrics"), expires="2030-01-01T00:00:00.000Z", limits=limits)
    catalog.keys.add(key)
    _, rotated = rotate_key(key, 60, now=1e9)
    catalog.keys.replace_secret(key, rotated)
    assert catalog.keys.by_id(key.id) == rotated
    catalog.keys.revoke(key.id, "t1")
    with pytest.raises(ConflictError, match="rotated or revoked by somebody else"):
        catalog.keys.replace_secret(rotated, key)


def test_a_fact_is_set_once(catalog: Catalog) -> None:
    assert catalog.facts.get("store") is None
    assert catalog.facts.set_once("store", "one") == "one"
    assert catalog.facts.set_once("store", "two") == "one"
    assert catalog.facts.get("store") == "one"


def test_masking_policies_are_kept_by_name_and_number_and_never_replaced(catalog: Catalog) -> None:
    rows = [("staff", 1, "one"), ("staff", 2, "two"), ("staff", 10, "ten"), ("logs", 1, "other")]
    for name, version, signed in rows:
        catalog.masking_policies.add(name, version, "t", signed)
    with pytest.raises(ConflictError, match="staff@2"):
        catalog.masking_policies.add("staff", 2, "t", "another")
    assert catalog.masking_policies.list() == sorted(rows)
    assert catalog.masking_policies.find("staff") == (10, "ten")
    assert catalog.masking_policies.find("staff", 2) == (2, "two")
    assert catalog.masking_policies.find("staff", 3) is None and catalog.masking_policies.find("nobody") is None
