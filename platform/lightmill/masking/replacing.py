"""What stands in place of a text that was found or declared: a function for each action, built once per rule."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable

from lightmill.errors import RequestError
from lightmill.masking.generalizing import first_characters, network_of
from lightmill.masking.keys import MaskingKey
from lightmill.masking.tokens import Tokenizer
from lightmill.records.masking import (
    GeneralizeRule,
    MaskingRule,
    PartialRule,
    PseudonymRule,
    TokenRule,
)

IPV6_BITS = 48
"""The bits of an IPv6 network unless the rule says how many: a site (RFC 6177)."""

Normal = Callable[[str], str]
_NO_NAME = re.compile(r"[^a-z0-9]+")


def placeholder(label: str) -> str:
    """Return what redaction puts in place of a value: the label in [a-z0-9_] between brackets."""
    return f"[{_NO_NAME.sub('_', label.lower()).strip('_') or 'masked'}]"


def replacer(rule: MaskingRule, label: str, normal: Normal, key: MaskingKey | None) -> Callable[[str], str]:
    """Return the function that masks one text by a rule.

    `label` is the detector's or the column's name: the placeholder's text, and the domain of pseudonyms and
    tokens where the rule names none. `normal` makes one spelling of all, so that pseudonyms join.
    """
    redacted = placeholder(label)
    if isinstance(rule, PartialRule):
        return lambda text: partial(text, rule)
    if isinstance(rule, PseudonymRule):
        secret = _needed(key).derive("pseudonym", rule.domain or label)
        return lambda text: pseudonym(normal(text), secret, rule.length)
    if isinstance(rule, TokenRule):
        return tokenizer(rule, label, key).token
    if isinstance(rule, GeneralizeRule) and rule.network is not None:
        ipv4_bits, ipv6_bits = rule.network, rule.ipv6_bits or IPV6_BITS
        return lambda text: network_of(text, ipv4_bits, ipv6_bits) or redacted
    if isinstance(rule, GeneralizeRule) and rule.characters is not None:
        count = rule.characters
        return lambda text: first_characters(text, count)
    return lambda text: redacted


def tokenizer(rule: TokenRule, label: str, key: MaskingKey | None) -> Tokenizer:
    """Return the tokenizer of a rule; its domain is the label unless the rule names another."""
    return Tokenizer(_needed(key).derive("token", rule.domain or label), keep_luhn=rule.luhn)


def pseudonym(text: str, secret: bytes, length: int) -> str:
    """Return `length` characters of the HMAC-SHA-256 (RFC 2104) of a text, in lower-case base32 (RFC 4648)."""
    digest = hmac.digest(secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return base64.b32encode(digest).decode().lower()[:length]


def partial(text: str, rule: PartialRule) -> str:
    """Return the text with `*` for letters and digits, except the first and last few and an address's domain.

    At most half of the letters and digits stay, the last before the first; the domain does not count.
    """
    head, at, domain = text.rpartition("@") if rule.keep_domain else ("", "", "")
    if not at:
        head, domain = text, ""
    places = [place for place, character in enumerate(head) if character.isalnum()]
    last = min(0 if at else rule.keep_last, len(places) // 2)
    first = min(rule.keep_first, len(places) // 2 - last)
    hidden = set(places[first : len(places) - last])
    return "".join("*" if place in hidden else character for place, character in enumerate(head)) + at + domain


def _needed(key: MaskingKey | None) -> MaskingKey:
    if key is None:
        raise RequestError(
            "The policy has pseudonyms, tokens or noise, which need a key; give Masker a key of 32 bytes."
        )
    return key
