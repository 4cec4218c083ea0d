"""Parquet Modular Encryption with the subkeys of a dataset version; docs/format.md section on datasets.

Every file gets fresh data keys of its own, wrapped under the version's subkeys; columns with tags are under
a subkey per tag. Crypto factories do not pickle: each process makes its own from the version key.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lightmill.errors import IntegrityError

FOOTER_KEY = "footer"
LIST_LEAF = ".list.element"
DATA_KEY = "data"
DATA_KEY_BITS = 256
ENCRYPTED_MAGIC = b"PARE"
_PEEK = 4096
Subkey = Callable[[str], bytes]


class _VersionKeys(pe.KmsClient):
    """Wraps a file's data keys under subkeys of the version key."""

    def __init__(self, subkey: Subkey) -> None:
        super().__init__()
        self._subkey = subkey

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        nonce = os.urandom(12)
        cipher = AESGCM(self._subkey(master_key_identifier))
        return base64.b64encode(nonce + cipher.encrypt(nonce, key_bytes, master_key_identifier.encode()))

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        wrapped = base64.b64decode(wrapped_key)
        cipher = AESGCM(self._subkey(master_key_identifier))
        return cipher.decrypt(wrapped[:12], wrapped[12:], master_key_identifier.encode())


def tag_name(number: int) -> str:
    """Return the name of the key of a tag, by its place among the tags of a file."""
    return f"tag-{number}"


def tag_keys(columns: Sequence[str], tags: Mapping[str, str]) -> dict[str, list[str]]:
    """Return key name to columns: a subkey per tag (numbered, so that the file shows no tag), one for the rest.

    `columns` are Parquet paths; the values of a list have the tag of the list.
    """
    numbered = {tag: tag_name(n) for n, tag in enumerate(sorted(set(tags.values())))}
    keys: dict[str, list[str]] = {}
    for column in columns:
        tag = tags.get(column) or tags.get(column.removesuffix(LIST_LEAF))
        keys.setdefault(numbered[tag] if tag else DATA_KEY, []).append(column)
    return keys


def write_encrypted(table: pa.Table, subkey: Subkey, tags: Mapping[str, str] | None = None) -> memoryview:
    """Return a table as an encrypted Parquet file; `tags` maps a column to the tag whose key protects it."""
    factory = pe.CryptoFactory(lambda _: _VersionKeys(subkey))
    config = pe.EncryptionConfiguration(
        footer_key=FOOTER_KEY,
        column_keys=tag_keys(_leaves(table.schema), tags or {}),
        encryption_algorithm="AES_GCM_V1",
        data_key_length_bits=DATA_KEY_BITS,
        double_wrapping=False,
        plaintext_footer=False,
    )
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, encryption_properties=properties, **encodings(table))
    return memoryview(sink.getvalue())


def encodings(table: pa.Table) -> dict[str, Any]:
    """Return how a table is compressed and encoded, as arguments of pyarrow's `write_table`.

    Only columns whose first values come again get a dictionary: building one of others takes most of the time.
    """
    repeating = {_path(field): _repeats(column) for field, column in zip(table.schema, table.columns, strict=True)}
    return {
        "compression": "zstd",
        "use_dictionary": [path for path, repeats in repeating.items() if repeats],
        "column_encoding": _split_floats(table.schema, repeating),
        "write_statistics": [field.name for field in table.schema if not pa.types.is_nested(field.type)],
    }


def read_encrypted(data: bytes, subkey: Subkey, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return an encrypted Parquet file's columns.

    Raises:
        IntegrityError: The bytes do not decrypt under the version's keys.
    """
    if data[:4] != ENCRYPTED_MAGIC:
        raise IntegrityError(f"Dataset file {name} is not encrypted; it was replaced. Restore it from a backup.")
    factory = pe.CryptoFactory(lambda _: _VersionKeys(subkey))
    try:
        properties = factory.file_decryption_properties(pe.KmsConnectionConfig())
        return pq.read_table(
            pa.BufferReader(data),
            columns=list(columns) if columns else None,
            decryption_properties=properties,
        )
    except (OSError, pa.ArrowException, InvalidTag) as exc:
        raise IntegrityError(f"Dataset file {name} does not decrypt; restore it from a backup.") from exc


def read_encrypted_schema(data: bytes, subkey: Subkey, name: str) -> pa.Schema:
    """Return the columns of an encrypted Parquet file; errors as `read_encrypted`."""
    if data[:4] != ENCRYPTED_MAGIC:
        raise IntegrityError(f"Dataset file {name} is not encrypted; it was replaced. Restore it from a backup.")
    factory = pe.CryptoFactory(lambda _: _VersionKeys(subkey))
    try:
        properties = factory.file_decryption_properties(pe.KmsConnectionConfig())
        return pq.read_schema(pa.BufferReader(data), decryption_properties=properties)
    except (OSError, pa.ArrowException, InvalidTag) as exc:
        raise IntegrityError(f"Dataset file {name} does not decrypt; restore it from a backup.") from exc


def _leaves(schema: pa.Schema) -> list[str]:
    """Return the Parquet paths of the columns; a list's values lie one level down."""
    return [f"{field.name}{LIST_LEAF}" if pa.types.is_fixed_size_list(field.type) else field.name for field in schema]


def _repeats(column: pa.ChunkedArray) -> bool:
    """Return whether at most half of a column's first values are different."""
    head = column.slice(0, _PEEK).combine_chunks()
    while _is_list(head.type):
        head = head.flatten()[:_PEEK]
    return pa.types.is_nested(head.type) or 2 * len(head.unique()) <= len(head)


def _split_floats(schema: pa.Schema, repeating: Mapping[str, bool]) -> dict[str, str]:
    """Return the encoding of prepared features: bytes of the same rank together compress better and read faster."""
    tensors = [
        _path(field)
        for field in schema
        if pa.types.is_fixed_size_list(field.type) and pa.types.is_floating(field.type.value_type)
    ]
    return {path: "BYTE_STREAM_SPLIT" for path in tensors if not repeating[path]}


def _path(field: pa.Field) -> str:
    """Return the Parquet path of a column's values."""
    path, kind = field.name, field.type
    while _is_list(kind):
        path, kind = f"{path}.list.element", kind.value_type
    return path


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
