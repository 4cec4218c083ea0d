"""The OpenSSF model-signing signature of an exported folder, and the key that makes it.

model-signing signs with elliptic-curve keys (P-256, P-384, P-521), certificates or Sigstore; it takes no
Ed25519, which is what a key ring signs records with. So a deployment has a P-256 key for exports, made at the
first export and kept beside the key ring, mode 0600. Its public half travels with every export for
convenience; who verifies should have got it by another way.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from lightmill.errors import IntegrityError, NotFoundError, RequestError, UnavailableError
from lightmill.models.exchange.extras import need

SIGNATURE_FILE = "model.sig"
PUBLIC_KEY_FILE = "model.sig.pub"
KEY_FILE = "export-signing.pem"
PUBLIC_FILE = "export-signing.pub.pem"
_WHAT = "The signature of an export"
_DIGESTS = re.compile(r": Expected \\?'Digest\(.*?\)\\?', Actual \\?'Digest\(.*?\)\\?'")


def check_installed() -> None:
    """Check that signatures can be made and verified here.

    Raises:
        RequestError: model-signing is not installed; the message says how to install it.
    """
    need("model_signing.signing", "exchange", _WHAT)


def export_key(folder: Path) -> Path:
    """Return the private key for exports in the folder of the key ring; made at the first call.

    Raises:
        RequestError: Others can read the file.
        UnavailableError: It cannot be written.
    """
    path = folder / KEY_FILE
    if not path.exists():
        _make_key(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise RequestError(f"{path} has mode {mode:04o}, so others can reach it; run: chmod 600 {path}")
    return path


def _make_key(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    _write_once(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), os.link)


def _write_once(path: Path, data: bytes, give_name: Callable[[Path, Path], None]) -> None:
    """Write a complete file, mode 0600, and give it its name by os.link or os.replace."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        give_name(temporary, path)
    except FileExistsError:
        return  # another export made the key at the same moment: its key counts
    except OSError as exc:
        raise UnavailableError(f"{path} cannot be written: {exc.strerror}.") from exc
    finally:
        temporary.unlink(missing_ok=True)


def public_key_file(folder: Path) -> Path:
    """Return the file of this deployment's public key for exports, to give to those who verify.

    Raises:
        NotFoundError: Nothing was exported here yet.
    """
    path = folder / KEY_FILE
    if not path.is_file():
        raise NotFoundError(
            f"There is no key for exports at {path}: nothing was exported here. Give the exporter's public key."
        )
    public = folder / PUBLIC_FILE
    data = public_key_of(path)
    if not public.is_file() or public.read_bytes() != data:
        _write_once(public, data, os.replace)
    return public


def public_key_of(private_key: Path) -> bytes:
    """Return the public half of a key, as PEM.

    Raises:
        IntegrityError: The file holds no elliptic-curve key.
    """
    try:
        key = load_pem_private_key(private_key.read_bytes(), password=None)
    except ValueError as exc:
        raise IntegrityError(f"{private_key} holds no private key; restore it from its backup.") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IntegrityError(f"{private_key} holds no elliptic-curve key; restore it from its backup.")
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def fingerprint_of(public_key: bytes) -> str:
    """Return the SHA-256 of a public key (its DER form), in hex, for people to compare.

    Raises:
        RequestError: It is no public key.
    """
    try:
        der = load_pem_public_key(public_key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except ValueError as exc:
        raise RequestError(f"This is no public key in PEM form: {exc}.") from exc
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    return digest.finalize().hex()


def sign_folder(folder: Path, private_key: Path) -> None:
    """Write `model.sig` over every other file of a folder.

    Raises:
        RequestError: model-signing is not installed.
        UnavailableError: The folder cannot be read or written.
    """
    signing = need("model_signing.signing", "exchange", _WHAT)
    signature = folder / SIGNATURE_FILE
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
        config.set_hashing_config(_hashing(signature)).sign(folder, signature)
    except OSError as exc:
        raise UnavailableError(f"{folder} cannot be signed: {exc}.") from exc


def verify_folder(folder: Path, public_key: Path) -> None:
    """Compare every file of a folder with its signature.

    Raises:
        NotFoundError: There is no such folder, or it carries no signature.
        IntegrityError: A file was changed, added or removed, or the signature is not this key's.
        RequestError: model-signing is not installed.
    """
    verifying = need("model_signing.verifying", "exchange", _WHAT)
    signature = folder / SIGNATURE_FILE
    if not signature.is_file():
        raise NotFoundError(f"{folder} carries no {SIGNATURE_FILE}; it was exported without one, or by something else.")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        config.set_hashing_config(_hashing(signature)).verify(folder, signature)
    except Exception as exc:
        reason = _DIGESTS.sub("", " ".join(str(exc).split())) or f"the signature is not this key's ({exc!r})"
        raise IntegrityError(f"{folder} is not what was signed: {reason[:600]}") from exc


def _hashing(signature: Path) -> object:
    """Every file counts, those of git included; only the signature cannot sign itself."""
    hashing = need("model_signing.hashing", "exchange", _WHAT)
    return hashing.Config().set_ignored_paths(paths=[signature.name], ignore_git_paths=False)
