"""The audit trail: signed, chained, durable, and remembered by the ring."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path

import pytest

from lightmill.errors import IntegrityError, RequestError
from lightmill.vault import KeyRing
from lightmill.vault.receipts import AuditTrail, KeyAction, KeyFate


def filled(ring: KeyRing, lines: int = 3) -> AuditTrail:
    trail = AuditTrail(ring)
    for n in range(lines):
        trail.append(KeyAction.ROTATE, scope="", what=f"step {n}", keys=[KeyFate(provider="p", key_id=f"k{n}")])
    return trail


def test_receipts_come_back_in_order(ring: KeyRing) -> None:
    trail = AuditTrail(ring)
    assert trail.read() == []
    made = trail.append(KeyAction.ERASE, scope="asset:default/x", what="model m", versions=3, receipt="receipt-7")
    filled(ring, 2)
    found = AuditTrail(KeyRing.open(ring.path)).read()
    assert [receipt.n for receipt in found] == [1, 2, 3] and found[0] == made
    assert (made.receipt, made.versions, made.previous, made.publisher) == ("receipt-7", 3, None, ring.signer.key_id)
    assert stat.S_IMODE(trail.path.stat().st_mode) == 0o600
    assert ring.trail is not None and ring.trail.n == 3


def test_concurrent_receipts_form_one_chain(ring: KeyRing) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: filled(KeyRing.open(ring.path), 2), range(4)))
    assert [receipt.n for receipt in AuditTrail(ring).read()] == list(range(1, 9))


def refused(trail: AuditTrail) -> str:
    with pytest.raises(IntegrityError) as failed:
        trail.read()
    before = trail.path.read_bytes() if trail.path.exists() else None
    with pytest.raises(IntegrityError):
        trail.append(KeyAction.ROTATE, scope="", what="never")
    assert (trail.path.read_bytes() if trail.path.exists() and before is not None else None) == before
    return str(failed.value)


def test_every_changed_byte_is_noticed(ring: KeyRing) -> None:
    trail = filled(ring)
    good = trail.path.read_bytes()
    cases = 0
    for position in range(0, len(good), 7):
        changed = bytearray(good)
        changed[position] ^= 1
        trail.path.write_bytes(changed)
        with pytest.raises(IntegrityError):
            trail.read()
        cases += 1
    print(f"audit trail: {cases} changed bytes refused")
    trail.path.write_bytes(good)
    assert len(trail.read()) == 3


def test_removed_reordered_and_repeated_lines_are_noticed(ring: KeyRing) -> None:
    trail = filled(ring)
    lines = trail.path.read_bytes().splitlines(keepends=True)
    attacks = [list(order) for order in permutations(lines) if list(order) != lines]
    attacks += [lines[1:], lines[:2], lines[:1], [], [*lines[:2], lines[1]], [lines[0], lines[2]]]
    for attack in attacks:
        trail.path.write_bytes(b"".join(attack))
        refused(trail)
    trail.path.unlink()
    assert "ends at line 0" in refused(trail)


def test_a_line_of_somebody_else_is_refused(ring: KeyRing, tmp_path: Path) -> None:
    trail = filled(ring, 1)
    stranger = KeyRing.create(tmp_path / "stranger" / "ring.json")
    theirs = filled(stranger, 2).path.read_bytes().splitlines(keepends=True)
    own = trail.path.read_bytes()
    trail.path.write_bytes(own + theirs[1])
    assert "not a trusted publisher" in refused(trail)
    trail.path.write_bytes(own)
    value = json.loads(own)
    value["payloadType"] = "application/vnd.lightmill.commit+json"
    trail.path.write_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    assert "signed as" in refused(trail)


def test_half_a_line_of_a_crash_goes_with_the_next(ring: KeyRing) -> None:
    trail = filled(ring)
    whole = trail.path.read_bytes()
    trail.path.write_bytes(whole + whole[:50])
    assert len(trail.read()) == 3
    assert trail.append(KeyAction.ROTATE, scope="", what="after").n == 4
    assert len(trail.read()) == 4 and trail.path.read_bytes().startswith(whole)


def test_a_crash_between_the_line_and_the_ring_is_no_tampering(ring: KeyRing) -> None:
    filled(ring)
    before = ring.path.read_bytes()
    filled(ring, 2)
    ring.path.write_bytes(before)
    again = AuditTrail(KeyRing.open(ring.path))
    assert len(again.read()) == 5 and again.append(KeyAction.ROTATE, scope="", what="x").n == 6


def test_others_cannot_read_it(ring: KeyRing) -> None:
    trail = filled(ring)
    trail.path.chmod(0o644)
    with pytest.raises(RequestError, match="chmod 600"):
        trail.read()
