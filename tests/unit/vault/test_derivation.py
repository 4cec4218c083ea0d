from __future__ import annotations

import pytest

from lightmill.errors import RequestError
from lightmill.vault import dedup_key, fingerprinter, new_key, parquet_key
from lightmill.vault.derivation import derive
from tests.unit.vault import reference


def test_hkdf_is_that_of_rfc_5869() -> None:
    """Test case 3 of the RFC has a 22-byte key, so it checks the reference; the reference checks ours."""
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert reference.hkdf(b"\x0b" * 22, b"", b"", 42).hex() == expected
    key, salt = bytes(range(32)), bytes(range(64))
    for length in (16, 32, 64, 100):
        assert derive(key, b"label", salt=salt, length=length) == reference.hkdf(key, salt, b"label", length)
        assert derive(key, b"label", length=length) == reference.hkdf(key, b"", b"label", length)


def test_keys_for_different_purposes_differ() -> None:
    key = bytes(32)
    derived = [parquet_key(key, ""), parquet_key(key, "a"), dedup_key(key, ""), dedup_key(key, "a")]
    assert len(set(derived)) == 4 and all(len(d) == 32 for d in derived)


def test_fresh_keys_do_not_repeat() -> None:
    assert len({new_key() for _ in range(1000)}) == 1000


def test_a_fingerprint_needs_its_key() -> None:
    key = new_key()
    parts = fingerprinter(key, memoryview(b"pie"))
    parts.update(b"ce")
    assert fingerprinter(key, b"piece").digest() == parts.digest() != fingerprinter(new_key(), b"piece").digest()


def test_a_key_has_32_bytes() -> None:
    with pytest.raises(RequestError, match="32 bytes"):
        derive(b"short", b"label")
