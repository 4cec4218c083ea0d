"""An issuer of tokens for tests: it signs what it is told, also what no honest issuer would."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from functools import lru_cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from lightmill.records.access import JwtIssuer, TrustedIssuer

NOW = 1_900_000_000.0
ISSUER = JwtIssuer(
    issuer="https://login.example",
    audience="lightmill",
    jwks="https://login.example/keys",
    algorithms=("RS256", "ES256", "EdDSA"),
    leeway_s=30,
    scopes={"ml-admin": ("admin",)},
)
CLAIMS: dict[str, Any] = {
    "iss": ISSUER.issuer,
    "aud": "lightmill",
    "sub": "ada",
    "exp": NOW + 600,
    "iat": NOW,
    "scope": "predict:digits openid",
}


@lru_cache
def private(name: str) -> Any:
    if name.startswith("rsa"):
        return rsa.generate_private_key(public_exponent=65537, key_size=1024 if name == "rsa-short" else 2048)
    if name.startswith("ec"):
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


ALGORITHMS = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA", "rsa-other": "RS256", "rsa-short": "RS256"}


def jwk(name: str, **fields: Any) -> dict[str, Any]:
    maker = {"r": RSAAlgorithm, "e": ECAlgorithm}[name[0]] if name != "ed" else OKPAlgorithm
    return {**json.loads(maker.to_jwk(private(name).public_key())), "kid": name, **fields}


def jwks(*names: str) -> str:
    return json.dumps({"keys": [jwk(name) for name in names]})


def trusted(*names: str, issuer: JwtIssuer = ISSUER) -> TrustedIssuer:
    return TrustedIssuer(issuer=issuer, jwks=jwks(*(names or ("rsa", "ec", "ed"))))


def token(
    name: str = "ec", *, headers: dict[str, Any] | None = None, without: tuple[str, ...] = (), **claims: Any
) -> bytes:
    content = {key: value for key, value in {**CLAIMS, **claims}.items() if key not in without}
    return jwt.encode(
        content, private(name), algorithm=ALGORITHMS[name], headers={"kid": name, **(headers or {})}
    ).encode()


def encoded(data: bytes | dict[str, Any]) -> bytes:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def unsigned(**header: Any) -> bytes:
    return b".".join((encoded({"alg": "none", "typ": "JWT", **header}), encoded(CLAIMS), b""))


def signed_with_the_public_key(algorithm: str = "HS256") -> bytes:
    """The attack on checkers that let the token choose how its key is used."""
    secret = (
        private("rsa")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    content = encoded({"alg": algorithm, "typ": "JWT", "kid": "rsa"}) + b"." + encoded(CLAIMS)
    return content + b"." + encoded(hmac.digest(secret, content, hashlib.sha256))
