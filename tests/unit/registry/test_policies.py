"""Masking policies by name and number: counted, signed, and refused when they are not what was added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from lightmill.catalog import Catalog
from lightmill.errors import IntegrityError, NotFoundError, RequestError
from lightmill.records.masking import MaskingPolicy, parse_masking_policy
from lightmill.registry import PolicyBook
from lightmill.vault import KeyRing

REDACT = {"detectors": ["all"], "action": "redact"}
KEEP_CARDS = {"detectors": ["card"], "action": "keep"}


def policy(*rules: dict[str, Any], name: str = "staff", **more: Any) -> MaskingPolicy:
    return parse_masking_policy({"name": name, "rules": list(rules or (REDACT,)), **more}, "the policy")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'catalog.db'}")
    catalog.migrate()
    return catalog


@pytest.fixture
def book(catalog: Catalog, tmp_path: Path) -> PolicyBook:
    return PolicyBook(catalog, KeyRing.create(tmp_path / "keyring.json"))


def test_numbers_rise_by_name_and_the_same_rules_keep_theirs(book: PolicyBook) -> None:
    one, two = policy(), policy(KEEP_CARDS, REDACT)
    assert [book.add(each).policy.version for each in (one, one, two, two, one)] == [1, 1, 2, 2, 3]
    assert book.add(policy(name="logs")).policy.version == 1
    assert [f"{found.policy.name}@{found.policy.version}" for found in book.list()] == [
        "logs@1",
        "staff@1",
        "staff@2",
        "staff@3",
    ]
    assert book.get("staff@2").policy.rules == two.rules
    assert book.get("staff") == book.get("staff@latest") == book.get("staff@3")


def test_a_number_in_the_file_must_be_the_one_that_it_gets(book: PolicyBook) -> None:
    with pytest.raises(RequestError, match=r"says version 2.*next number of 'staff' is 1"):
        book.add(policy(version=2))
    assert book.add(policy(version=1)).policy.version == 1


def test_what_is_not_there_is_said_with_what_is(book: PolicyBook) -> None:
    with pytest.raises(NotFoundError, match="none yet"):
        book.get("staff@1")
    book.add(policy())
    with pytest.raises(NotFoundError, match=r"'staff@2'.*staff@1.*masking add"):
        book.get("staff@2")
    with pytest.raises(RequestError, match="number, or 'latest'"):
        book.get("staff@champion")


def test_a_policy_written_out_must_not_pass_for_a_kept_one(book: PolicyBook) -> None:
    kept = book.add(policy()).policy
    assert book.settle("staff@1") == book.settle(kept) == kept
    other = policy(KEEP_CARDS, REDACT)
    with pytest.raises(RequestError, match="another policy of that name and number"):
        book.settle(other)
    assert book.settle(other.model_copy(update={"name": "mine"})).name == "mine"


@pytest.mark.parametrize(
    "signed",
    [
        "replace(signed, 'a', 'b')",
        "(SELECT signed FROM masking_policies WHERE version = 1)",
        "'{}'",
    ],
)
def test_a_row_that_somebody_changed_is_refused(
    book: PolicyBook, catalog: Catalog, tmp_path: Path, signed: str
) -> None:
    book.add(policy(KEEP_CARDS))
    book.add(policy())
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'catalog.db'}")
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE masking_policies SET signed = {signed} WHERE version = 2"))
    engine.dispose()
    for look in (lambda: book.get("staff"), book.list, lambda: book.settle("staff@2"), lambda: book.add(policy())):
        with pytest.raises(IntegrityError):
            look()
    assert book.get("staff@1").policy.version == 1


def test_a_policy_that_another_ring_signed_is_refused(book: PolicyBook, catalog: Catalog, tmp_path: Path) -> None:
    book.add(policy())
    with pytest.raises(IntegrityError, match="not a trusted publisher"):
        PolicyBook(catalog, KeyRing.create(tmp_path / "other.json")).get("staff@1")
