"""The names of objects on the store; docs/format.md section 1."""

from __future__ import annotations

from lightmill.errors import IntegrityError

STORE_FILE = "lightmill.json"
RECORDS = "r/"
LEASES = "l/"
RENEWALS = "lr/"
MARKS = "g/"
QUARANTINE = "q/"


def blob_name(digest: str) -> str:
    """Return the name of a data blob or encrypted Parquet file by the SHA-256 of its bytes, in hex."""
    return f"b/{digest[:2]}/{digest}"


def manifest_name(digest: str) -> str:
    """Return the name of a sealed manifest by the SHA-256 of its bytes, in hex."""
    return f"m/{digest[:2]}/{digest}"


def records_prefix(mid: str) -> str:
    """Return the folder of an asset's commit records."""
    return f"{RECORDS}{mid}/v/"


def record_name(mid: str, seq: int) -> str:
    """Return the name of a commit record."""
    return f"{records_prefix(mid)}{seq:010d}"


def envelopes_prefix(mid: str, seq: int) -> str:
    """Return the folder of a version's envelopes."""
    return f"{RECORDS}{mid}/e/{seq:010d}/"


def envelope_name(mid: str, seq: int, rot: int) -> str:
    """Return the name of an envelope; `rot` counts the rotations."""
    return f"{envelopes_prefix(mid, seq)}{rot:06d}"


def aliases_prefix(mid: str) -> str:
    """Return the folder of all alias logs of an asset."""
    return f"{RECORDS}{mid}/a/"


def alias_prefix(mid: str, alias: str) -> str:
    """Return the folder of one alias's log."""
    return f"{aliases_prefix(mid)}{alias}/"


def alias_name(mid: str, alias: str, n: int) -> str:
    """Return the name of an alias log entry."""
    return f"{alias_prefix(mid, alias)}{n:010d}"


def tombstones_prefix(mid: str) -> str:
    """Return the folder of an asset's tombstones."""
    return f"{RECORDS}{mid}/t/"


def tombstone_name(mid: str, seq: int) -> str:
    """Return the name of the tombstone of a deleted version."""
    return f"{tombstones_prefix(mid)}{seq:010d}"


def annotations_prefix(mid: str) -> str:
    """Return the folder of an asset's annotation log."""
    return f"{RECORDS}{mid}/k/"


def annotation_name(mid: str, n: int) -> str:
    """Return the name of an annotation log entry."""
    return f"{annotations_prefix(mid)}{n:010d}"


def lease_name(publish_id: str) -> str:
    """Return the name of a publisher's lease."""
    return f"{LEASES}{publish_id}"


def renewals_prefix(publish_id: str) -> str:
    """Return the folder of the renewals of a lease."""
    return f"{RENEWALS}{publish_id}/"


def renewal_name(publish_id: str, n: int) -> str:
    """Return the name of a renewal of a lease."""
    return f"{renewals_prefix(publish_id)}{n:010d}"


def mark_name(n: int) -> str:
    """Return the name of a collector's mark."""
    return f"{MARKS}{n:010d}"


def quarantine_name(name: str) -> str:
    """Return the name under which a collected object waits before it is gone for good."""
    return f"{QUARANTINE}{name}"


def last_number(name: str) -> int:
    """Return the number that ends an object's name.

    Raises:
        IntegrityError: The name does not end with a number; something else wrote into the store.
    """
    tail = name.rsplit("/", 1)[-1]
    if not tail.isdigit():
        raise IntegrityError(f"Object {name} does not belong in this store: its name should end with a number.")
    return int(tail)
