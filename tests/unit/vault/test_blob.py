from __future__ import annotations

import os
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import IntegrityError, RequestError
from lightmill.vault import (
    HEADER_BYTES,
    MAX_PLAINTEXT_BYTES,
    BlobContext,
    BlobReader,
    new_key,
    open_blob,
    seal_blob,
    seal_into,
    sealed_size,
)
from tests.conftest import Tally
from tests.unit.vault import reference

STORE = "00112233445566778899aabbccddeeff"
MID = "abcdefghijklmnopqrstuvwxy2"
SMALL = 1 << 16
KEY = bytes(range(32))
DATA = BlobContext.for_data(STORE, "default")
NAME = "b/ab/abcd"
PLAINTEXT = os.urandom(2 * SMALL + 1000)  # three segments, the last one short


def load(data: bytes, key: bytes = KEY, context: BlobContext = DATA, expected: int | None = None) -> bytes:
    """Read as the loader does, into a dirty destination; check that a refused segment leaves only zeros."""
    reader = BlobReader.parse(data[:HEADER_BYTES], key, context, len(data), expected, name=NAME)
    out = bytearray(b"\xaa" * reader.plaintext_bytes)
    for i in range(reader.segments):
        offset, length = reader.span(i)
        start = i * reader.segment_bytes
        room = memoryview(out)[start : start + reader.segment_plaintext_bytes(i)]
        try:
            reader.decrypt_into(i, data[offset : offset + length], room)
        except IntegrityError:
            assert bytes(room) == bytes(len(room)), "unauthenticated plaintext was left behind"
            raise
    return bytes(out)


def refusal(data: bytes, key: bytes = KEY, context: BlobContext = DATA, expected: int | None = None) -> str:
    """Check that both ways to read refuse, in the same words, and return them."""
    with pytest.raises(IntegrityError) as streamed:
        load(bytes(data), key, context, expected)
    with pytest.raises(IntegrityError) as whole:
        open_blob(data, key, context, expected, name=NAME)
    assert str(streamed.value) == str(whole.value)
    assert streamed.value.__cause__ is None and whole.value.__cause__ is None
    return str(whole.value)


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return bytes(seal_blob(PLAINTEXT, KEY, DATA, segment_bytes=SMALL))


@settings(deadline=None, max_examples=60)
@given(
    size=st.one_of(st.integers(0, 300), st.integers(0, 5 * SMALL), st.sampled_from([SMALL - 1, SMALL, SMALL + 1])),
    log2=st.integers(16, 18),
    key=st.binary(min_size=32, max_size=32),
    workspace=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
)
def test_what_is_sealed_opens(size: int, log2: int, key: bytes, workspace: str) -> None:
    plaintext = (b"lightmill" * (size // 9 + 1))[:size]
    context = BlobContext.for_data(STORE, workspace)
    sealed = seal_blob(plaintext, key, context, segment_bytes=1 << log2)
    assert len(sealed) == sealed_size(size, 1 << log2)
    assert open_blob(sealed, key, context, size) == plaintext
    assert load(bytes(sealed), key, context, size) == plaintext


def test_plaintext_may_be_any_contiguous_buffer() -> None:
    numbers = memoryview(bytearray(range(16))).cast("i")
    assert open_blob(seal_blob(numbers, KEY, DATA), KEY, DATA) == bytes(range(16))


def test_the_largest_blob_seals_and_one_byte_more_does_not() -> None:
    plaintext = bytes(MAX_PLAINTEXT_BYTES)
    assert open_blob(seal_blob(plaintext, KEY, DATA), KEY, DATA) == plaintext
    with pytest.raises(RequestError, match="split the data"):
        seal_blob(bytes(MAX_PLAINTEXT_BYTES + 1), KEY, DATA)


@pytest.mark.parametrize("position", range(HEADER_BYTES))
def test_every_flipped_header_byte_is_refused(sealed: bytes, position: int) -> None:
    for mask in (0x01, 0x02, 0x80, 0xFF):
        damaged = bytearray(sealed)
        damaged[position] ^= mask
        refusal(bytes(damaged))


@pytest.mark.parametrize("position", range(HEADER_BYTES))
def test_every_flipped_header_byte_of_a_small_blob_is_refused(position: int) -> None:
    # One segment: here the segment size does not show in the object's size, only in the associated data.
    damaged = seal_blob(b"weights", KEY, DATA, segment_bytes=SMALL)
    damaged[position] ^= 1
    refusal(bytes(damaged))


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_flipped_bit_is_refused(sealed: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(sealed) - 1))
    damaged = bytearray(sealed)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    refusal(bytes(damaged))


def segments_of(blob: bytes) -> list[bytes]:
    step = SMALL + 16
    return [blob[at : at + step] for at in range(HEADER_BYTES, len(blob), step)]


@pytest.mark.parametrize("segment", range(3))
@pytest.mark.parametrize("byte", [0, 500, -17, -16, -1])
def test_a_flip_in_any_segment_or_tag_is_refused(sealed: bytes, segment: int, byte: int) -> None:
    parts = segments_of(sealed)
    damaged = bytearray(parts[segment])
    damaged[byte] ^= 0x40
    parts[segment] = bytes(damaged)
    refusal(sealed[:HEADER_BYTES] + b"".join(parts))


def test_truncated_extended_and_rearranged_blobs_are_refused(sealed: bytes) -> None:
    head, (first, second, last) = sealed[:HEADER_BYTES], segments_of(sealed)
    other = bytes(seal_blob(PLAINTEXT, KEY, DATA, segment_bytes=SMALL))
    attacks = {
        "empty": b"",
        "half a header": sealed[:64],
        "header only": head,
        "last byte gone": sealed[:-1],
        "last segment gone": head + first + second,
        "one byte more": sealed + b"\0",
        "last segment twice": head + first + second + last + last,
        "swapped": head + second + first + last,
        "repeated": head + first + first + last,
        "spliced": head + first + segments_of(other)[1] + last,
        "another header": other[:HEADER_BYTES] + sealed[HEADER_BYTES:],
    }
    words = {refusal(attack) for attack in attacks.values()}
    assert len(words) == 1


def test_a_shorter_blob_with_a_matching_header_is_refused(sealed: bytes) -> None:
    """The attacker drops the last segment and corrects the length, so that all sizes agree."""
    head, (first, second, _) = bytearray(sealed[:HEADER_BYTES]), segments_of(sealed)
    head[12:20] = (2 * SMALL).to_bytes(8, "little")
    refusal(bytes(head) + first + second)


def test_another_kind_store_workspace_or_key_is_refused(sealed: bytes) -> None:
    words = {
        refusal(sealed, context=BlobContext.for_manifest(STORE, "default", MID, 1)),
        refusal(sealed, context=BlobContext.for_data(STORE[::-1], "default")),
        refusal(sealed, context=BlobContext.for_data(STORE, "other")),
        refusal(sealed, key=new_key()),
        refusal(sealed, key=KEY[:31]),
        refusal(sealed, key=b""),
        refusal(sealed, expected=len(PLAINTEXT) - 1),
        refusal(sealed, expected=0),
        refusal(b"LMBLOB2\0" + sealed[8:]),
        refusal(sealed[:-1] + bytes([sealed[-1] ^ 1])),
    }
    assert len(words) == 1
    assert NAME in words.pop()


def test_a_manifest_belongs_to_one_version_of_one_asset() -> None:
    context = BlobContext.for_manifest(STORE, "default", MID, 1)
    sealed = bytes(seal_blob(b"{}", KEY, context))
    assert open_blob(sealed, KEY, context) == b"{}"
    refusal(sealed, context=BlobContext.for_manifest(STORE, "default", MID, 2))
    refusal(sealed, context=BlobContext.for_manifest(STORE, "default", MID[::-1].replace("2", "3"), 1))


def test_a_commitment_of_another_key_is_refused(sealed: bytes) -> None:
    """One ciphertext under two keys: the second key's commitment does not make the tags right."""
    salt = sealed[20:52]
    other = seal_blob(PLAINTEXT, new_key(), DATA, segment_bytes=SMALL, salt=salt)
    refusal(sealed[:52] + bytes(other[52:84]) + sealed[84:])


def forged(**fields: int | bytes) -> bytes:
    """Seal one segment under a header of the attacker's choice, with tags that are right for that header."""
    salt, plaintext = bytes(range(100, 132)), b"weights"
    material = reference.hkdf(KEY, salt, DATA.info, 64)
    header = {
        "magic": b"LMBLOB1\0",
        "suite": 1,
        "log2": 16,
        "flags": 0,
        "length": len(plaintext),
        "salt": salt,
        "commitment": material[32:],
        "zeros": bytes(44),
    }
    packed = struct.pack("<8sHBBQ32s32s44s", *(header | fields).values())
    return packed + AESGCM(material[:32]).encrypt(bytes(11) + b"\1", plaintext, packed)


@pytest.mark.parametrize(
    "fields",
    [
        {"magic": b"LMBLOB2\0"},
        {"suite": 0},
        {"suite": 2},
        {"suite": 256},
        {"log2": 0},
        {"log2": 15},
        {"log2": 27},
        {"log2": 255},
        {"flags": 1},
        {"flags": 128},
        {"length": 6},
        {"length": 8},
        {"length": 1 << 63},
        {"commitment": bytes(32)},
        {"zeros": bytes(43) + b"\1"},
        {"zeros": b"\1" + bytes(43)},
    ],
)
def test_each_header_check_stands_without_the_tags(fields: dict[str, int | bytes]) -> None:
    """Whoever has the blob key can make right tags for any header; each field is refused by its own check."""
    assert open_blob(forged(), KEY, DATA) == b"weights"
    blob = forged(**fields)
    with pytest.raises(IntegrityError, match=NAME):
        BlobReader.parse(blob[:HEADER_BYTES], KEY, DATA, len(blob), name=NAME)
    refusal(blob)


def test_a_blob_over_the_limit_is_refused_before_room_is_made() -> None:
    length = MAX_PLAINTEXT_BYTES + 1
    header = forged(length=length, log2=20)[:HEADER_BYTES]
    with pytest.raises(IntegrityError, match=NAME):
        BlobReader.parse(header, KEY, DATA, sealed_size(length), name=NAME)


def test_a_promised_length_is_checked_before_any_segment(sealed: bytes) -> None:
    for expected in (0, len(PLAINTEXT) - 1, len(PLAINTEXT) + 1):
        with pytest.raises(IntegrityError, match=NAME):
            BlobReader.parse(sealed[:HEADER_BYTES], KEY, DATA, len(sealed), expected, name=NAME)
    for size in (0, len(sealed) - 1, len(sealed) + 1, len(sealed) + 16):
        with pytest.raises(IntegrityError, match=NAME):
            BlobReader.parse(sealed[:HEADER_BYTES], KEY, DATA, size, name=NAME)


def test_a_wrong_segment_or_room_is_refused_and_wiped(sealed: bytes) -> None:
    reader = BlobReader.parse(sealed[:HEADER_BYTES], KEY, DATA, len(sealed), name=NAME)
    for i in (-1, 3, 1 << 40):
        with pytest.raises(IntegrityError, match=NAME):
            reader.span(i)
        room = bytearray(b"\xaa" * 100)
        with pytest.raises(IntegrityError, match=NAME):
            reader.decrypt_into(i, b"", memoryview(room))
        assert room == bytes(100)
    for size in (0, 999, 1001):
        room = bytearray(b"\xaa" * size)
        with pytest.raises(RequestError, match="1000 bytes"):
            reader.decrypt_into(2, segments_of(sealed)[2], memoryview(room))
        assert room == bytes(size)
    for ciphertext in (b"", b"\0" * 5, segments_of(sealed)[2] + b"\0", segments_of(sealed)[0]):
        room = bytearray(b"\xaa" * 1000)
        with pytest.raises(IntegrityError, match=NAME):
            reader.decrypt_into(2, ciphertext, memoryview(room))
        assert room == bytes(1000)
        with pytest.raises(IntegrityError, match=NAME):
            reader.decrypt(2, ciphertext)


def test_the_reader_writes_into_any_dtype_and_from_many_threads(sealed: bytes) -> None:
    reader = BlobReader.parse(sealed[:HEADER_BYTES], KEY, DATA, len(sealed))
    parts = segments_of(sealed)

    def read(_: int) -> bytes:
        out = memoryview(bytearray(SMALL)).cast("f")
        reader.decrypt_into(1, parts[1], out)
        return out.tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(200))) == {PLAINTEXT[SMALL : 2 * SMALL]}


def test_no_salt_and_no_ciphertext_repeats() -> None:
    blobs = [bytes(seal_blob(b"the same", KEY, DATA)) for _ in range(500)]
    assert len({blob[20:52] for blob in blobs}) == len(blobs)
    assert len({blob[HEADER_BYTES:] for blob in blobs}) == len(blobs)


@pytest.mark.slow
def test_no_key_and_no_salt_repeats_in_a_million_seals(tally: Tally) -> None:
    """Nonces are numbers of segments, so what must not repeat is the encryption key: of blob key and salt."""
    key, seals = new_key(), 1_000_000
    salts = {bytes(seal_blob(b"", key, DATA)[20:52]) for _ in range(seals)}
    keys = {new_key() for _ in range(seals)}
    assert len(salts) == len(keys) == seals
    tally("seals, no salt and no key twice", seals)


@pytest.mark.parametrize("segment_bytes", [0, 1, -65536, 1 << 15, (1 << 16) + 1, 1 << 27])
def test_odd_segment_sizes_cannot_be_sealed(segment_bytes: int) -> None:
    with pytest.raises(RequestError, match="power of two"):
        seal_blob(b"x", KEY, DATA, segment_bytes=segment_bytes)


def test_only_a_whole_key_and_salt_seal() -> None:
    with pytest.raises(RequestError, match="32 bytes"):
        seal_blob(b"x", b"short", DATA)
    with pytest.raises(RequestError, match="32 bytes"):
        seal_blob(b"x", KEY, DATA, salt=b"short")


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": b""},
        {"kind": b"Data"},
        {"kind": b"data\n"},
        {"kind": b"manifest"},
        {"kind": b"manifest" + b"A" * 26 + b"0" * 10},
        {"kind": b"manifest" + b"a" * 26 + b"0" * 11},
        {"store_id": STORE.upper()},
        {"store_id": STORE[:-1]},
        {"workspace": ""},
    ],
)
def test_the_context_is_a_closed_set(fields: dict[str, object]) -> None:
    good: dict[str, object] = {"kind": b"data", "store_id": STORE, "workspace": "default"}
    with pytest.raises(RequestError):
        BlobContext(**(good | fields))  # type: ignore[arg-type]


def test_a_reader_shows_and_pickles_no_key(sealed: bytes) -> None:
    reader = BlobReader.parse(sealed[:HEADER_BYTES], KEY, DATA, len(sealed))
    assert "_aead" not in repr(reader) and KEY.hex() not in repr(reader)
    with pytest.raises(TypeError):
        pickle.dumps(reader)


@pytest.mark.parametrize("size", [0, 1, SMALL, 2 * SMALL + 1000])
def test_who_watches_the_sealing_sees_every_byte_once_in_its_order(size: int) -> None:
    room, plain, made = bytearray(sealed_size(size, SMALL) + 7), bytearray(), bytearray()

    def seen(segment: memoryview, part: memoryview) -> None:
        plain.extend(segment)
        made.extend(part)

    sealed = seal_into(memoryview(room), PLAINTEXT[:size], new_key(), DATA, segment_bytes=SMALL, seen=seen)
    assert plain == PLAINTEXT[:size]
    assert made == sealed
