"""The sealed blob: AES-256-GCM in segments (STREAM, Hoang et al. 2015) with key commitment.

    0  128  header: magic, suite, log2 of the segment size, flags, plaintext length, salt, commitment, zeros
    128     segment i at 128 + i * (S + 16): ciphertext, then its 16-byte tag

A blob key seals one blob, once: a retry seals again under a new key and a new salt. The index and the last
mark are in the nonce and the header is associated data of every segment, so that bytes cannot be flipped,
dropped, reordered, appended or moved to another blob. Every refusal has the same words, whatever its
reason. docs/format.md is the specification.
"""

from __future__ import annotations

import hmac
import re
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lightmill.errors import IntegrityError, RequestError
from lightmill.vault.derivation import KEY_BYTES, derive

if TYPE_CHECKING:
    from typing_extensions import Buffer

SEGMENT_BYTES = 1 << 20
"""Plaintext of one segment; below 256 KiB two threads are slower than one (the GIL's hand-off)."""

MAX_PLAINTEXT_BYTES = 64 << 20
"""The most that one blob holds; a larger file is many blobs, written and read in parallel."""

HEADER_BYTES = 128
TAG_BYTES = 16
SALT_BYTES = 32

Seen = Callable[[memoryview, memoryview], None]
"""Called with a segment's plaintext and with the bytes of the object made of it, while both are in the CPU's cache: in
their order, the header first, which is made of no plaintext."""

_MAGIC = b"LMBLOB1\0"
_SUITE_AES_256_GCM = 1
_SUITES = frozenset({_SUITE_AES_256_GCM})
_MIN_LOG2_SEGMENT = 16
_MAX_LOG2_SEGMENT = 26
_LAYOUT = struct.Struct("<8sHBBQ32s32s44s")
_RESERVED = bytes(44)
_NONCE = struct.Struct("<7xIB")
_KIND = re.compile(rb"data|manifest[a-z2-7]{26}[0-9]{10}|annotation[a-z2-7]{26}[0-9]{20}")
_STORE_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobContext:
    """What a blob is for; it enters the key derivation, so a blob opens in its own context only.

    Attributes:
        kind: b"data"; b"manifest" with the asset id (26 characters) and the version (10 digits); or b"annotation"
            with the asset id, the version and the number of the entry (10 digits).
        store_id: The id of the store, 32 lowercase hex characters.
        workspace: The workspace that owns the blob.

    Raises:
        RequestError: When a field does not have this form.
    """

    kind: bytes
    store_id: str
    workspace: str

    def __post_init__(self) -> None:
        if not _KIND.fullmatch(self.kind):
            raise RequestError(
                f'A blob is of kind "data", "manifest" + asset id + version, or "annotation" + asset id + version + '
                f"entry, not {self.kind!r}"
            )
        if not _STORE_ID.fullmatch(self.store_id):
            raise RequestError(f"A store id has 32 lowercase hex characters, this is {self.store_id!r}")
        if not self.workspace:
            raise RequestError("A blob belongs to a workspace; its name is empty")

    @classmethod
    def for_data(cls, store_id: str, workspace: str) -> BlobContext:
        """Return the context of the data blobs of one workspace."""
        return cls(kind=b"data", store_id=store_id, workspace=workspace)

    @classmethod
    def for_manifest(cls, store_id: str, workspace: str, mid: str, seq: int) -> BlobContext:
        """Return the context of the manifest of version `seq` of the asset `mid`."""
        return cls(kind=f"manifest{mid}{seq:010d}".encode(), store_id=store_id, workspace=workspace)

    @classmethod
    def for_annotation(cls, store_id: str, workspace: str, mid: str, seq: int, n: int) -> BlobContext:
        """Return the context of what entry `n` of the annotations of asset `mid` says of version `seq`."""
        return cls(kind=f"annotation{mid}{seq:010d}{n:010d}".encode(), store_id=store_id, workspace=workspace)

    @property
    def info(self) -> bytes:
        """The HKDF info; unambiguous, since all but the last part have fixed lengths."""
        return b"lmblob1\0" + self.kind + self.store_id.encode() + self.workspace.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobReader:
    """A blob whose header has been checked, ready to decrypt its segments in any order and from any thread.

    Attributes:
        name: What refusals call the object.
        segment_bytes: Plaintext of every segment but the last.
        plaintext_bytes: Plaintext of the whole blob.
        segments: How many there are, at least one.
    """

    name: str
    segment_bytes: int
    plaintext_bytes: int
    segments: int
    _header: bytes = field(repr=False)
    _aead: AESGCM = field(repr=False)

    @classmethod
    def parse(
        cls,
        header: Buffer,
        key: bytes,
        context: BlobContext,
        object_size: int,
        expected_plaintext_bytes: int | None = None,
        *,
        name: str = "blob",
    ) -> BlobReader:
        """Check the header of an object and return its reader.

        In this order: magic; suite; segment size; flags; reserved bytes; the size that the length implies;
        the length that the manifest promised; the key commitment in constant time.

        Args:
            header: The first 128 bytes of the object.
            key: The blob's key, 32 bytes.
            context: What the blob must have been sealed for.
            object_size: Size of the whole object on the store, in bytes.
            expected_plaintext_bytes: Plaintext length by the manifest; None when nothing promised one.
            name: What refusals call the object.

        Raises:
            IntegrityError: When any check fails; the message is the same for all.
        """
        head = bytes(header)
        if len(head) != HEADER_BYTES:
            raise _refusal(name)
        magic, suite, log2_segment, flags, plaintext_bytes, salt, commitment, reserved = _LAYOUT.unpack(head)
        if magic != _MAGIC or suite not in _SUITES:
            raise _refusal(name)
        if not _MIN_LOG2_SEGMENT <= log2_segment <= _MAX_LOG2_SEGMENT:
            raise _refusal(name)
        if flags or reserved != _RESERVED:
            raise _refusal(name)
        segment_bytes = 1 << log2_segment
        if plaintext_bytes > MAX_PLAINTEXT_BYTES or object_size != sealed_size(plaintext_bytes, segment_bytes):
            raise _refusal(name)
        if expected_plaintext_bytes is not None and plaintext_bytes != expected_plaintext_bytes:
            raise _refusal(name)
        if len(key) != KEY_BYTES:
            raise _refusal(name)
        aead, expected_commitment = _derive(key, salt, context)
        if not hmac.compare_digest(commitment, expected_commitment):
            raise _refusal(name)
        return cls(
            name=name,
            segment_bytes=segment_bytes,
            plaintext_bytes=plaintext_bytes,
            segments=_segment_count(plaintext_bytes, segment_bytes),
            _header=head,
            _aead=aead,
        )

    def segment_plaintext_bytes(self, i: int) -> int:
        """Return the plaintext length of segment i.

        Raises:
            IntegrityError: When the blob has no such segment: what pointed there is damaged.
        """
        if not 0 <= i < self.segments:
            raise _refusal(self.name)
        return min(self.segment_bytes, self.plaintext_bytes - i * self.segment_bytes)

    def span(self, i: int) -> tuple[int, int]:
        """Return (offset, length) of segment i in the object, its tag included.

        Raises:
            IntegrityError: When the blob has no such segment.
        """
        length = self.segment_plaintext_bytes(i) + TAG_BYTES
        return HEADER_BYTES + i * (self.segment_bytes + TAG_BYTES), length

    def decrypt_into(self, i: int, ciphertext: Buffer, out: memoryview) -> None:
        """Decrypt segment i into `out`, without a copy and without the GIL.

        Args:
            i: Index of the segment.
            ciphertext: The bytes at `span(i)`, contiguous.
            out: Writable and contiguous, exactly `segment_plaintext_bytes(i)` bytes.

        Raises:
            IntegrityError: When the segment is not what was written; `out` has then been filled with zeros,
                since the cipher leaves unauthenticated plaintext behind.
            RequestError: When `out` has another size; it has been filled with zeros too.
        """
        out = _as_bytes(out)
        try:
            length = self.segment_plaintext_bytes(i)
            if out.nbytes != length:
                raise RequestError(f"Segment {i} of {self.name} needs {length} bytes of room, not {out.nbytes}")
            self._aead.decrypt_into(self._nonce(i), _as_bytes(ciphertext), self._header, out)
        except (InvalidTag, ValueError):
            _wipe(out)
            raise _refusal(self.name) from None
        except BaseException:
            _wipe(out)
            raise

    def decrypt(self, i: int, ciphertext: Buffer) -> bytes:
        """Return the plaintext of segment i.

        Raises:
            IntegrityError: When the segment is not what was written.
        """
        view = _as_bytes(ciphertext)
        if view.nbytes != self.segment_plaintext_bytes(i) + TAG_BYTES:
            raise _refusal(self.name)
        try:
            return self._aead.decrypt(self._nonce(i), view, self._header)
        except InvalidTag:
            raise _refusal(self.name) from None

    def _nonce(self, i: int) -> bytes:
        return _NONCE.pack(i, i == self.segments - 1)


def sealed_size(plaintext_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> int:
    """Return the size of the object that seals this many bytes: header, ciphertext, a tag per segment."""
    return HEADER_BYTES + plaintext_bytes + TAG_BYTES * _segment_count(plaintext_bytes, segment_bytes)


def seal_blob(
    plaintext: Buffer,
    key: bytes,
    context: BlobContext,
    *,
    segment_bytes: int = SEGMENT_BYTES,
    salt: bytes | None = None,
) -> bytearray:
    """Seal a contiguous buffer and return the whole object; write it in one go.

    Args:
        plaintext: At most 64 MiB; it is read in place.
        key: 32 random bytes that seal this blob and nothing else, ever; see `new_key`.
        context: What the blob is for.
        segment_bytes: A power of two from 2**16 to 2**26.
        salt: 32 bytes, for test vectors only; otherwise fresh and random.

    Raises:
        RequestError: When an argument is outside these limits.
    """
    view = _as_bytes(plaintext)
    _check_limits(view, segment_bytes)
    sealed = bytearray(sealed_size(view.nbytes, segment_bytes))
    seal_into(memoryview(sealed), view, key, context, segment_bytes=segment_bytes, salt=salt)
    return sealed


def seal_into(
    out: memoryview,
    plaintext: Buffer,
    key: bytes,
    context: BlobContext,
    *,
    segment_bytes: int = SEGMENT_BYTES,
    salt: bytes | None = None,
    seen: Seen | None = None,
) -> memoryview:
    """Seal a contiguous buffer into memory that is used again, and return the part of it that holds the object.

    Args:
        out: Writable and contiguous, at least `sealed_size` bytes; it must not overlap the plaintext.
        plaintext: See `seal_blob`.
        key: See `seal_blob`.
        context: See `seal_blob`.
        segment_bytes: See `seal_blob`.
        salt: That of an object which is lost, to make its very bytes again from the same plaintext under the
            same key; whoever does that compares the digest before the result leaves the process.
        seen: Hears of every part of the object as soon as it is made; see `Seen`.

    Raises:
        RequestError: When an argument is outside these limits.
    """
    view = _as_bytes(plaintext)
    _check_limits(view, segment_bytes)
    log2_segment = segment_bytes.bit_length() - 1
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    if len(salt) != SALT_BYTES:
        raise RequestError(f"A salt has {SALT_BYTES} bytes, this one has {len(salt)}")
    size = sealed_size(view.nbytes, segment_bytes)
    if out.nbytes < size:
        raise RequestError(f"Sealing {view.nbytes} bytes needs {size} bytes of room, not {out.nbytes}")
    sealed = out[:size]
    aead, commitment = _derive(key, salt, context)
    header = _LAYOUT.pack(_MAGIC, _SUITE_AES_256_GCM, log2_segment, 0, view.nbytes, salt, commitment, _RESERVED)
    sealed[:HEADER_BYTES] = header
    if seen:
        seen(view[:0], sealed[:HEADER_BYTES])
    room = sealed[HEADER_BYTES:]
    last = _segment_count(view.nbytes, segment_bytes) - 1
    for i in range(last + 1):
        segment = view[i * segment_bytes : (i + 1) * segment_bytes]
        start = i * (segment_bytes + TAG_BYTES)
        target = room[start : start + segment.nbytes + TAG_BYTES]
        aead.encrypt_into(_NONCE.pack(i, i == last), segment, header, target)
        if seen:
            seen(segment, target)
    return sealed


def _check_limits(view: memoryview, segment_bytes: int) -> None:
    if not 1 << _MIN_LOG2_SEGMENT <= segment_bytes <= 1 << _MAX_LOG2_SEGMENT or segment_bytes & (segment_bytes - 1):
        raise RequestError(f"A segment is a power of two from 2**16 to 2**26 bytes, not {segment_bytes}")
    if view.nbytes > MAX_PLAINTEXT_BYTES:
        raise RequestError(f"A blob holds at most {MAX_PLAINTEXT_BYTES} bytes, not {view.nbytes}; split the data")


def open_blob(
    data: Buffer,
    key: bytes,
    context: BlobContext,
    expected_plaintext_bytes: int | None = None,
    *,
    name: str = "blob",
) -> bytes:
    """Return the plaintext of a whole object, after every segment has verified.

    Raises:
        IntegrityError: When anything about the object is not what was written.
    """
    view = _as_bytes(data)
    reader = BlobReader.parse(view[:HEADER_BYTES], key, context, view.nbytes, expected_plaintext_bytes, name=name)
    spans = map(reader.span, range(reader.segments))
    return b"".join(reader.decrypt(i, view[offset : offset + length]) for i, (offset, length) in enumerate(spans))


def _segment_count(plaintext_bytes: int, segment_bytes: int) -> int:
    return max(1, -(-plaintext_bytes // segment_bytes))


def _derive(key: bytes, salt: bytes, context: BlobContext) -> tuple[AESGCM, bytes]:
    """Return the cipher and the key commitment: the two halves of 64 bytes of HKDF."""
    material = derive(key, context.info, salt=salt, length=2 * KEY_BYTES)
    return AESGCM(material[:KEY_BYTES]), material[KEY_BYTES:]


def _as_bytes(data: Buffer) -> memoryview:
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(bytearray())  # empty views of floats do not cast


def _wipe(out: memoryview) -> None:
    out[:] = bytes(out.nbytes)


def _refusal(name: str) -> IntegrityError:
    return IntegrityError(
        f"{name} was refused: it is not the sealed object that was written here, or the key is not its own. "
        "Nothing of it was used; restore it from a replica or a backup"
    )
