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
from lightmill.vault.derivation import KEY_BYTES, asset_id, dedup_key, fingerprinter, new_key, parquet_key
from lightmill.vault.keychain import Keychain
from lightmill.vault.keyring import KeyRing
from lightmill.vault.keyring_file import Erasure, RootKey
from lightmill.vault.passphrase import Argon2idKdf, Passphrase, ScryptKdf
from lightmill.vault.scopes import DEPLOYMENT, asset_scope, workspace_scope
from lightmill.vault.services import AwsKmsSettings, KeyService, VaultTransitSettings
from lightmill.vault.signing import (
    ALIAS_TYPE,
    ANNOTATION_TYPE,
    COMMIT_TYPE,
    TOMBSTONE_TYPE,
    Signer,
    key_id_of,
    verify,
)
from lightmill.vault.wrapping import (
    EnvelopeHead,
    KeyProvider,
    Wrapped,
    open_envelope,
    read_envelope_head,
    rewrap_envelope,
    seal_envelope,
)

__all__ = [
    "ALIAS_TYPE",
    "ANNOTATION_TYPE",
    "COMMIT_TYPE",
    "DEPLOYMENT",
    "HEADER_BYTES",
    "KEY_BYTES",
    "MAX_PLAINTEXT_BYTES",
    "SEGMENT_BYTES",
    "TOMBSTONE_TYPE",
    "Argon2idKdf",
    "AwsKmsSettings",
    "BlobContext",
    "BlobReader",
    "Confined",
    "EnvelopeHead",
    "Erasure",
    "KeyProvider",
    "KeyRing",
    "KeyService",
    "Keychain",
    "Passphrase",
    "RootKey",
    "ScryptKdf",
    "Signer",
    "VaultTransitSettings",
    "Wrapped",
    "asset_id",
    "asset_scope",
    "canonical_json",
    "decode_base64",
    "dedup_key",
    "encode_base64",
    "fingerprinter",
    "key_id_of",
    "new_key",
    "open_blob",
    "open_envelope",
    "parquet_key",
    "parse_json",
    "read_envelope_head",
    "rewrap_envelope",
    "seal_blob",
    "seal_envelope",
    "seal_into",
    "sealed_size",
    "verify",
    "workspace_scope",
]
