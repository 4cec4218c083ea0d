"""The certificate of the HTTP port: given, or made here; HAProxy reads it with its key from one 0600 file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from socket import gethostname

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lightmill.errors import NotFoundError, RequestError
from lightmill.settings import Settings

VALID_DAYS = 825
RENEW_DAYS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The certificate that clients see; `fingerprint` is its SHA-256, as browsers and openssl show it."""

    path: Path
    fingerprint: str
    expires: datetime


def write_certificate(
    settings: Settings, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Certificate | None:
    """Make the files ready that HAProxy and this machine's clients read; None where the port is not encrypted.

    A generated certificate stays until it is about to expire or the host changes, so that clients who were given it
    go on trusting it.

    Raises:
        NotFoundError: A file that the settings name is not there.
        RequestError: It holds no certificate or no key, they do not belong together, or the certificate has expired.
    """
    if not settings.encrypted:
        return None
    settings.tls_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if settings.tls_certificate:
        chain, key = _given(settings.tls_certificate, settings.tls_key or settings.tls_certificate)
        if chain[0].not_valid_after_utc <= now():
            raise RequestError(
                f"The certificate in {settings.tls_certificate} expired at {chain[0].not_valid_after_utc:%Y-%m-%d}."
            )
    else:
        kept = _kept(settings, now())
        chain, key = kept or _generated(settings.host, now())
    leaf = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(settings.tls_path, leaf + secret)
    _write(settings.tls_certificate_path, leaf)
    return Certificate(
        path=settings.tls_certificate_path,
        fingerprint=chain[0].fingerprint(hashes.SHA256()).hex(":").upper(),
        expires=chain[0].not_valid_after_utc,
    )


def _given(certificate: Path, key: Path) -> tuple[list[x509.Certificate], PrivateKeyTypes]:
    chain = _read_chain(certificate)
    try:
        found = serialization.load_pem_private_key(_read(key, "LIGHTMILL_TLS_KEY"), password=None)
    except (ValueError, TypeError) as exc:
        raise RequestError(
            f"{key} holds no private key in PEM without a passphrase; correct LIGHTMILL_TLS_KEY."
        ) from exc
    if found.public_key() != chain[0].public_key():
        raise RequestError(f"The key in {key} does not belong to the certificate in {certificate}; give one that does.")
    return chain, found


def _read_chain(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path, "LIGHTMILL_TLS_CERTIFICATE"))
    except ValueError as exc:
        raise RequestError(f"{path} holds no certificate in PEM; correct LIGHTMILL_TLS_CERTIFICATE.") from exc


def _read(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise NotFoundError(f"No file can be read at {path} ({exc.strerror}); correct {variable}.") from exc


def _kept(settings: Settings, now: datetime) -> tuple[list[x509.Certificate], PrivateKeyTypes] | None:
    """Return the certificate that was generated before, if it still serves."""
    try:
        chain, key = _given(settings.tls_path, settings.tls_path)
        names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (NotFoundError, RequestError, x509.ExtensionNotFound):
        return None
    own = len(chain) == 1 and chain[0].issuer == chain[0].subject and list(names) == _names(settings.host)
    lasts = chain[0].not_valid_after_utc > now + timedelta(days=RENEW_DAYS)
    return (chain, key) if own and lasts else None


def _generated(host: str, now: datetime) -> tuple[list[x509.Certificate], PrivateKeyTypes]:
    """Return a certificate that signs itself, for this host's names alone; it can sign no other."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Lightmill")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    return [made], key


def _names(host: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for text in dict.fromkeys((host, "localhost", gethostname(), "127.0.0.1")):
        try:
            names.append(x509.IPAddress(ip_address(text)))
        except ValueError:
            names.append(x509.DNSName(text))
    return names


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(path.suffix + ".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    temporary.replace(path)
