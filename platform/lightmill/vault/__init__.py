"""Keys and sealed bytes. Knows bytes, not models.

Rules of this room:

* It never talks to a store: bytes come in, bytes go out (docs/format.md fixes every one of them).
* Verify, then expose: no plaintext leaves a function before its tag has been checked, and a destination
  that received unauthenticated bytes is wiped before the error is raised.
* Secrets stay in the process: nothing that holds one prints it or pickles.
* Whatever is wrong with sealed bytes is an IntegrityError that names the object and not the reason, so that
  an attacker who can write to the store learns nothing from our answers.
"""

from __future__ import annotations

from lightmill.vault.blob import (
    HEADER_BYTES,
    MAX_PLAINTEXT_BYTES,
    SEGMENT_BYTES,
    BlobContext,
    BlobReader,
    open_blob,
    seal_blob,
    seal_into,
    sealed_size,
)
from lightmill.vault.canonical import canonical_json, decode_base64, encode_base64, parse_json
from lightmill.vault.confined import Confined
from lightmill.vault.derivation import KEY_BYTES, asset_id, dedup_key, fingerprint, new_key, parquet_key
from lightmill.vault.keyring import KeyRing
from lightmill.vault.local_provider import LocalKeyProvider
from lightmill.vault.signing import (
    ALIAS_TYPE,
    ANNOTATION_TYPE,
    COMMIT_TYPE,
    TOMBSTONE_TYPE,
    Signer,
    key_id_of,
    verify,
)
from lightmill.vault.wrapping import KeyProvider, Wrapped, open_envelope, rewrap_envelope, seal_envelope

__all__ = [
    "ALIAS_TYPE",
    "ANNOTATION_TYPE",
    "COMMIT_TYPE",
    "HEADER_BYTES",
    "KEY_BYTES",
    "MAX_PLAINTEXT_BYTES",
    "SEGMENT_BYTES",
    "TOMBSTONE_TYPE",
    "BlobContext",
    "BlobReader",
    "Confined",
    "KeyProvider",
    "KeyRing",
    "LocalKeyProvider",
    "Signer",
    "Wrapped",
    "asset_id",
    "canonical_json",
    "decode_base64",
    "dedup_key",
    "encode_base64",
    "fingerprint",
    "key_id_of",
    "new_key",
    "open_blob",
    "open_envelope",
    "parquet_key",
    "parse_json",
    "rewrap_envelope",
    "seal_blob",
    "seal_envelope",
    "seal_into",
    "sealed_size",
    "verify",
]
