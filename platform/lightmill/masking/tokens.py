"""Format-preserving tokens: a keyed permutation of the texts of one shape.

A text's shape is what stands at each place: a digit, a lower-case or an upper-case ASCII letter, or itself. The
digits and letters are one number below the product N of their alphabets' sizes. A balanced Feistel network (Luby
and Rackoff 1988) of 10 rounds permutes the numbers of as many bits as N has; it is repeated until the result is
below N (cycle walking, Black and Rogaway 2002). Its round function is keyed BLAKE2b (RFC 7693), with the shape as
tweak. These are tokens, not FF1 of NIST SP 800-38G: nobody but this module can compute or undo them.

Two texts of one shape never share a token, except that with a kept Luhn digit a text without one may meet one with.
Letters and digits outside ASCII cannot be numbered so: a keyed digest picks an ASCII letter or digit of their class,
and these places alone may collide.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

from lightmill.masking.checksums import luhn, luhn_digit

ROUNDS = 10
PIECE_CHARS = 128
"""The characters of one permutation: half of their bits fit into a BLAKE2b digest."""

LEAST_TEXTS = 1_000_000
"""The fewest texts of one shape among which a token hides one (NIST SP 800-38G Rev. 1 asks as many of FF1)."""

_ALPHABETS = {"0": "0123456789", "a": "abcdefghijklmnopqrstuvwxyz", "A": "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


class Tokenizer:
    """Makes tokens under one 32-byte key. `luhn` keeps a valid Luhn check digit valid."""

    def __init__(self, key: bytes, *, keep_luhn: bool = False) -> None:
        self._key = key
        self._keep_luhn = keep_luhn

    def token(self, text: str) -> str:
        """Return the token of a text: same length, classes and separators.

        A text whose shape has fewer than a million texts would be found by counting: its letters and digits
        become a, A and 0, so it hides among them and joins with them all.
        """
        if self._keep_luhn:
            places = [place for place, character in enumerate(text) if character in _ALPHABETS["0"]]
            digits = "".join(text[place] for place in places)
            if len(digits) > 1 and luhn(digits):
                return self._luhn_token(text, places)
        return self._plain_token(text)

    def number(self, value: int, limit: int) -> int:
        """Return the token of a whole number: as many digits, the same sign, less than `limit` in size.

        Numbers of fewer than seven digits become 0, as there are too few of them to hide among.
        """
        low = 10 ** (len(str(abs(value))) - 1)
        if 9 * low < LEAST_TEXTS:
            return 0
        number = abs(value)
        while True:
            number = self._permute(number, 10 * low, b"-" if value < 0 else b"+")
            if low <= number < limit:
                return -number if value < 0 else number

    def _luhn_token(self, text: str, places: list[int]) -> str:
        *body, last = places
        masked = self._plain_token(text[:last] + "?" + text[last + 1 :])
        digit = luhn_digit("".join(masked[place] for place in body))
        return masked[:last] + digit + masked[last + 1 :]

    def _plain_token(self, text: str) -> str:
        shape = "".join(_class_of(character) for character in text)
        size = 1
        for kind in shape:
            size *= len(_ALPHABETS.get(kind, "1"))
            if size >= LEAST_TEXTS:
                break
        if size < LEAST_TEXTS:
            return shape
        seen = hashlib.sha256(shape.encode("utf-8", "surrogatepass"))
        pieces: list[str] = []
        for start in range(0, len(text), PIECE_CHARS):
            piece = text[start : start + PIECE_CHARS]
            pieces.append(self._piece(piece, shape[start : start + PIECE_CHARS], seen.digest()))
            seen.update(piece.encode("utf-8", "surrogatepass"))
        return "".join(pieces)

    def _piece(self, text: str, shape: str, tweak: bytes) -> str:
        foreign = "".join(character for character in text if character.isalnum() and not character.isascii())
        tweak += foreign.encode("utf-8", "surrogatepass")
        size, number = 1, 0
        for character, kind in zip(text, shape, strict=True):
            alphabet = _ALPHABETS.get(kind)
            if alphabet and character.isascii():
                size *= len(alphabet)
                number = number * len(alphabet) + alphabet.index(character)
        number = self._permute(number, size, tweak) if size > 1 else 0
        stream = self._stream(tweak + number.to_bytes((size.bit_length() + 7) // 8, "big"))
        out: list[str] = []
        for character, kind in zip(reversed(text), reversed(shape), strict=True):
            alphabet = _ALPHABETS.get(kind)
            if alphabet is None:
                out.append(character)
            elif character.isascii():
                number, digit = divmod(number, len(alphabet))
                out.append(alphabet[digit])
            else:
                out.append(alphabet[next(stream) % len(alphabet)])
        return "".join(reversed(out))

    def _permute(self, number: int, size: int, tweak: bytes) -> int:
        """Return where the keyed permutation of 0 to size - 1 takes `number`."""
        half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
        mask = (1 << half) - 1
        length = (half + 7) // 8
        head = len(tweak).to_bytes(4, "big") + tweak + size.to_bytes((size.bit_length() + 7) // 8, "big")
        keyed = hashlib.blake2b(head, key=self._key, digest_size=length, person=b"lightmill token")
        while True:
            left, right = number >> half, number & mask
            for count in range(ROUNDS):
                rounds = keyed.copy()
                rounds.update(bytes([count]) + right.to_bytes(length, "big"))
                left, right = right, left ^ (int.from_bytes(rounds.digest(), "big") & mask)
            number = left << half | right
            if number < size:
                return number

    def _stream(self, label: bytes) -> Iterator[int]:
        """Yield pseudorandom bytes."""
        for count in itertools.count():
            block = label + count.to_bytes(4, "big")
            yield from hashlib.blake2b(block, key=self._key, person=b"lightmill other").digest()


def _class_of(character: str) -> str:
    """Return 0, a or A for a digit, a lower-case or an upper-case letter, and any other character itself."""
    if character.isdigit():
        return "0"
    if character.isalpha():
        return "A" if character.isupper() else "a"
    return character
