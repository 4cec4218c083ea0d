"""Who may ask, and how much: API keys and tokens of trusted issuers, checked on every request, and their limits."""

from lightmill.access.callers import Identifier, Identity
from lightmill.access.keys import KeyChecker, hash_secret, mint_key, parse_key, rotate_key
from lightmill.access.limits import Limiter, LimitState, together

__all__ = [
    "Identifier",
    "Identity",
    "KeyChecker",
    "LimitState",
    "Limiter",
    "hash_secret",
    "mint_key",
    "parse_key",
    "rotate_key",
    "together",
]
