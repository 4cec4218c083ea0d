"""Who may ask: API keys, minted here, kept in the catalog as digests, and checked on every request."""

from lightmill.access.keys import KeyChecker, hash_secret, mint_key, parse_key

__all__ = ["KeyChecker", "hash_secret", "mint_key", "parse_key"]
