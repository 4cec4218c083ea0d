from __future__ import annotations

import json
from typing import Any

import pytest

from lightmill.errors import IntegrityError, RequestError
from lightmill.vault import (
    KeyRing,
    Wrapped,
    canonical_json,
    new_key,
    open_envelope,
    rewrap_envelope,
    seal_envelope,
)

CONTEXT = {"store": "0" * 32, "workspace": "default", "mid": "a" * 26, "seq": "1"}
KEY = bytes(range(32))


def refusal(data: bytes, ring: KeyRing, context: dict[str, str] = CONTEXT, rot: int | None = None) -> str:
    with pytest.raises(IntegrityError) as refused:
        open_envelope(data, ring.provider, context, rot=rot, name="r/a/e/1/0")
    assert KEY.hex() not in str(refused.value)
    return str(refused.value)


def edited(data: bytes, **changes: Any) -> bytes:
    return canonical_json(json.loads(data) | changes)


def test_a_key_unwraps_in_its_context_only(ring: KeyRing) -> None:
    wrapped = ring.provider.wrap(KEY, CONTEXT)
    assert KEY not in wrapped.ciphertext and len(wrapped.ciphertext) == 92
    assert ring.provider.unwrap(wrapped, CONTEXT) == KEY
    assert ring.provider.unwrap(wrapped, dict(reversed(CONTEXT.items()))) == KEY
    for name in CONTEXT:
        with pytest.raises(IntegrityError, match=wrapped.key_id):
            ring.provider.unwrap(wrapped, CONTEXT | {name: "other"})
        with pytest.raises(IntegrityError, match=wrapped.key_id):
            ring.provider.unwrap(wrapped, {k: v for k, v in CONTEXT.items() if k != name})


def test_every_flipped_byte_of_a_wrapped_key_is_refused(ring: KeyRing) -> None:
    wrapped = ring.provider.wrap(KEY, CONTEXT)
    for position in range(len(wrapped.ciphertext)):
        damaged = bytearray(wrapped.ciphertext)
        damaged[position] ^= 1
        bad = Wrapped(provider=wrapped.provider, key_id=wrapped.key_id, ciphertext=bytes(damaged))
        with pytest.raises(IntegrityError, match=wrapped.key_id):
            ring.provider.unwrap(bad, CONTEXT)
    for length in (0, 31, 44, 91):
        bad = Wrapped(provider=wrapped.provider, key_id=wrapped.key_id, ciphertext=wrapped.ciphertext[:length])
        with pytest.raises(IntegrityError):
            ring.provider.unwrap(bad, CONTEXT)


def test_wrapping_twice_gives_different_bytes(ring: KeyRing) -> None:
    texts = {ring.provider.wrap(KEY, CONTEXT).ciphertext for _ in range(200)}
    assert len({text[:32] for text in texts}) == len({text[32:44] for text in texts}) == 200


def test_only_a_whole_key_is_wrapped(ring: KeyRing) -> None:
    with pytest.raises(RequestError, match="32 bytes"):
        ring.provider.wrap(b"short", CONTEXT)


def test_an_envelope_opens_with_its_provider_context_and_rotation(ring: KeyRing) -> None:
    data = seal_envelope(KEY, ring.provider, CONTEXT, rot=3)
    assert open_envelope(data, ring.provider, CONTEXT) == KEY
    assert open_envelope(data, ring.provider, CONTEXT, rot=3) == KEY
    assert "belongs to another" in refusal(data, ring, rot=2)
    for name in CONTEXT:
        assert "belongs to another" in refusal(data, ring, CONTEXT | {name: "other"})


def test_edited_envelopes_are_refused(ring: KeyRing) -> None:
    data = seal_envelope(KEY, ring.provider, CONTEXT)
    other = json.loads(seal_envelope(new_key(), ring.provider, CONTEXT))
    attacks = [
        edited(data, rot=1),
        edited(data, format=2),
        edited(data, format="1"),
        edited(data, rot=-1),
        edited(data, rot="0"),
        edited(data, provider="local-keyring:ffffffffffffffff"),
        edited(data, provider="aws-kms:eu"),
        edited(data, key_id="root-ffffffffffffffff"),
        edited(data, wrapped=other["wrapped"]),  # a swapped key, with the old authentication code
        edited(data, wrapped=""),
        edited(data, wrapped="not base64"),
        edited(data, mac=other["mac"]),
        edited(data, mac=""),
        edited(data, comment="hello"),
        edited(data, context=CONTEXT | {"extra": "1"}),
        json.dumps(json.loads(data)).encode(),
        data + b"\n",
        data[:-1],
        b"",
        b"[]",
        b" " * (65 << 10),
    ]
    for attack in attacks:
        refusal(attack, ring)


def test_every_flipped_byte_of_an_envelope_is_refused(ring: KeyRing) -> None:
    data = seal_envelope(KEY, ring.provider, CONTEXT)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1
        refusal(bytes(damaged), ring)


def test_rotation_keeps_the_key_and_moves_to_the_new_root(ring: KeyRing) -> None:
    old = ring.provider.key_id
    first = seal_envelope(KEY, ring.provider, CONTEXT)
    new = ring.add_root_key()
    second, rot = rewrap_envelope(first, ring.provider, CONTEXT)
    assert rot == 1 and json.loads(second)["key_id"] == new != old
    assert open_envelope(second, ring.provider, CONTEXT, rot=1) == KEY
    assert open_envelope(first, ring.provider, CONTEXT, rot=0) == KEY
    damaged = edited(first, rot=7)
    with pytest.raises(IntegrityError):
        rewrap_envelope(damaged, ring.provider, CONTEXT)
