"""Parquet Modular Encryption under a version's subkeys."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from lightmill.datasets.parquet import DATA_KEY, FOOTER_KEY, read_encrypted, tag_keys, write_encrypted
from lightmill.datasets.reading import feature_rows
from lightmill.errors import ForbiddenError, IntegrityError

TABLE = pa.table(
    {
        "row_id": pa.array(range(100)),
        "canaryplain": pa.array([float(n) for n in range(100)]),
        "canarytagged": pa.array([f"canarycell{n}" for n in range(100)]),
        "features": pa.FixedSizeListArray.from_arrays(pa.array(range(300), type=pa.float32()), 3),
    }
)
TAGS = {"canarytagged": "canarytag"}


def subkey(name: str) -> bytes:
    return hashlib.sha256(b"version key" + name.encode()).digest()


def without_tags(name: str) -> bytes:
    if name.startswith("tag-"):
        raise ForbiddenError("this reader may not read tagged columns")
    return subkey(name)


def test_a_table_comes_back() -> None:
    data = bytes(write_encrypted(TABLE, subkey, TAGS))
    assert read_encrypted(data, subkey, "x").equals(TABLE)
    assert read_encrypted(data, subkey, "x", ["features"]).equals(TABLE.select(["features"]))


def test_a_table_without_rows_comes_back() -> None:
    data = bytes(write_encrypted(TABLE.slice(0, 0), subkey, TAGS))
    assert read_encrypted(data, subkey, "x").num_rows == 0


def test_a_reader_without_the_key_of_a_tag_reads_the_other_columns() -> None:
    data = bytes(write_encrypted(TABLE, subkey, TAGS))
    allowed = ["row_id", "canaryplain", "features"]
    assert read_encrypted(data, without_tags, "x", allowed).equals(TABLE.select(allowed))
    for columns in (["canarytagged"], None):
        with pytest.raises(ForbiddenError, match="tagged"):
            read_encrypted(data, without_tags, "x", columns)


def test_a_list_with_a_tag_is_under_the_key_of_the_tag() -> None:
    table = TABLE.append_column("words", pa.array([["a", "b"]] * 100))
    data = bytes(write_encrypted(table, subkey, {"features": "face", "words": "text"}))
    assert read_encrypted(data, subkey, "x").equals(table)
    for name in ("features", "words"):
        with pytest.raises((ForbiddenError, IntegrityError)):
            read_encrypted(data, without_tags, "x", [name])
    assert read_encrypted(data, without_tags, "x", ["row_id"]).equals(table.select(["row_id"]))


def test_every_tag_has_a_key_of_its_own_and_the_file_shows_no_tag() -> None:
    keys = tag_keys(["a", "b", "c", "d"], {"b": "secret", "c": "private", "d": "secret"})
    assert keys == {DATA_KEY: ["a"], "tag-0": ["c"], "tag-1": ["b", "d"]}
    assert tag_keys(["a"], {}) == {DATA_KEY: ["a"]}
    assert FOOTER_KEY not in keys


def test_neither_a_name_nor_a_value_nor_a_tag_is_in_the_bytes() -> None:
    data = bytes(write_encrypted(TABLE, subkey, TAGS))
    for canary in (b"canary", b"row_id", b"features", pa.array([1.0, 2.0, 3.0]).buffers()[1].to_pybytes()):
        assert canary not in data
    assert data[:4] == data[-4:] == b"PARE"  # an encrypted footer; PAR1 would be a plain one
    plain = pa.BufferOutputStream()
    import pyarrow.parquet as pq

    pq.write_table(TABLE, plain)
    assert b"canarytagged" in plain.getvalue().to_pybytes()


def test_equal_tables_are_never_equal_files() -> None:
    assert bytes(write_encrypted(TABLE, subkey)) != bytes(write_encrypted(TABLE, subkey))


@pytest.mark.parametrize("wrong", [lambda _: b"w" * 32, lambda name: subkey(name + "x")], ids=["constant", "derived"])
def test_a_wrong_key_is_an_integrity_error_with_the_file(wrong) -> None:
    data = bytes(write_encrypted(TABLE, subkey, TAGS))
    with pytest.raises(IntegrityError, match=r"train/0\.parquet"):
        read_encrypted(data, wrong, "train/0.parquet")


def test_a_wrong_key_for_the_columns_alone_is_an_integrity_error() -> None:
    data = bytes(write_encrypted(TABLE, subkey, TAGS))
    with pytest.raises(IntegrityError):
        read_encrypted(data, lambda name: subkey(name) if name == FOOTER_KEY else b"w" * 32, "x")


@pytest.mark.parametrize("data", [b"", b"PARE", b"PAR1" + bytes(100) + b"PAR1", bytes(1000)])
def test_what_is_no_encrypted_parquet_is_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        read_encrypted(data, subkey, "x")


def test_a_plain_parquet_file_in_its_place_is_refused() -> None:
    import pyarrow.parquet as pq

    plain = pa.BufferOutputStream()
    pq.write_table(TABLE, plain)
    with pytest.raises(IntegrityError):
        read_encrypted(plain.getvalue().to_pybytes(), subkey, "x")


def test_features_become_a_matrix_also_of_a_slice() -> None:
    found = feature_rows(TABLE.slice(10, 4))
    assert found.shape == (4, 3)
    assert found[0].tolist() == [30, 31, 32]
    assert found.flags.writeable
    assert feature_rows(pa.concat_tables([TABLE.slice(0, 2), TABLE.slice(98)])).shape == (4, 3)


def test_columns_of_every_kind_come_back_whether_their_values_repeat_or_not() -> None:
    numbers = np.random.default_rng(0).random(9000)
    kinds = {
        "few": np.arange(3000) % 3,
        "many": numbers[:3000],
        "texts": [f"{n}" for n in range(3000)],
        "none": pa.nulls(3000),
        "tensor": pa.FixedSizeListArray.from_arrays(pa.array(numbers.astype(np.float32)), 3),
        "halves": pa.FixedSizeListArray.from_arrays(pa.array(numbers.astype(np.float16)), 3),
        "zeros": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(9000, dtype=np.float32)), 3),
        "tokens": [list(range(n % 4)) for n in range(3000)],
        "nested": [[[f"{n}"]] for n in range(3000)],
    }
    table = pa.table(kinds)
    assert read_encrypted(bytes(write_encrypted(table, subkey)), subkey, "x").equals(table)
