"""What the key operations take and return."""

from __future__ import annotations

from pydantic import SecretStr

from lightmill.records.base import Record
from lightmill.records.references import AssetKind
from lightmill.vault.receipts import KeyFate, Receipt


class KeyOptions(Record):
    """What every key operation takes: the passphrase of a protected ring, when it came from a prompt."""

    passphrase: SecretStr | None = None


class ProtectOptions(KeyOptions):
    """A new passphrase (from a prompt, else from LIGHTMILL_PASSPHRASE_FILE) and the function that slows it."""

    new_passphrase: SecretStr | None = None
    kdf: str = "argon2id"


class UseOptions(KeyOptions):
    """Which key service wraps from now on: "local", "aws-kms" or "vault-transit", and what it needs."""

    provider: str
    key_id: str = ""
    region: str = ""
    endpoint: str = ""
    url: str = ""
    mount: str = "transit"
    namespace: str = ""
    token_file: str = ""
    ca_file: str = ""
    wrap_ring: bool = False


class RotateOptions(KeyOptions):
    """Everything, or one workspace; with new root keys, or only to finish."""

    workspace: str = ""
    new_keys: bool = True


class ScopeOptions(KeyOptions):
    """One asset by kind and name, or a workspace. `key_id` is a key that the service's operator made."""

    kind: AssetKind | None = None
    name: str = ""
    workspace: str = ""
    key_id: str = ""
    dry_run: bool = False


class DestroyOptions(KeyOptions):
    """A root key that nothing needs any more."""

    key_id: str


class RekeyOptions(KeyOptions):
    """A version, as `name` or `name@selector`."""

    kind: AssetKind
    reference: str


class RingState(Record):
    """How the ring is kept, after a change."""

    path: str
    protection: str
    provider: str
    key_id: str
    receipt: str = ""


class KeyRow(Record):
    """One root key: what it is for, who holds it, and what is under it."""

    scope: str
    provider: str
    key_id: str
    current: bool
    created: str
    erased: str
    receipt: str
    versions: int
    drafts: int


class KeyList(Record):
    """All root keys of a deployment."""

    path: str
    protection: str
    keys: tuple[KeyRow, ...]


class RewrapResult(Record):
    """What a rotation or isolation did."""

    keys: tuple[KeyFate, ...]
    rewrapped: int
    unchanged: int
    erased: int
    problems: tuple[str, ...]
    receipt: str


class EraseResult(Record):
    """What was erased, or with `dry_run` what would be; `receipt` is empty then."""

    what: str
    keys: tuple[KeyFate, ...]
    versions: int
    receipt: str = ""
    created: str = ""


class RekeyResult(Record):
    """The version that was read and the one that was published."""

    source: str
    version: str
    digest: str
    blobs: int
    receipt: str


class ReceiptList(Record):
    """The audit trail, verified."""

    path: str
    receipts: tuple[Receipt, ...]
