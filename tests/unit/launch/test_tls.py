"""The HTTP port over TLS: certificates, the rewritten configuration, and the real HAProxy before a small server."""

from __future__ import annotations

import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr, ValidationError

from lightmill.errors import NotFoundError, RequestError, UnavailableError
from lightmill.launch.haproxy import write_haproxy
from lightmill.launch.tls import write_certificate
from lightmill.sdk.transport import Transport
from lightmill.settings import Settings
from tests.unit.launch.test_state import free_ports

CONFIG = """global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend prometheus
    bind :{metrics}
    mode http
frontend http_frontend
    bind 127.0.0.1:{http}
    default_backend app
backend app
    server one 127.0.0.1:{backend}
frontend grpc_frontend
    bind 127.0.0.1:{grpc} proto h2
    mode http
    http-request return status 200
listen stats
  bind *:{stats}
  stats enable
"""


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"live": true}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    made = encrypted(tmp_path, http_port=free_ports(1)[0], tls="generate")
    made.run_path.mkdir(mode=0o700)
    yield made
    for path in (made.run_path / "h").glob("*"):
        path.unlink()
    (made.run_path / "h").rmdir()
    made.run_path.rmdir()


def encrypted(folder: Path, **fields: Any) -> Settings:
    return Settings(home=folder / "a home, with # and &", **fields)


def given(folder: Path, *, names: tuple[str, ...] = ("platform.example",), days: int = 5) -> tuple[Path, Path]:
    """A certificate as somebody's own authority might have made it, and its key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "given.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "given.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return folder / "given.crt", folder / "given.key"


@contextmanager
def haproxy(settings: Settings, config: Path) -> Iterator[dict[str, int]]:
    """The real binary, by the wrapper that Ray is given, before a server that says hello."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    metrics, grpc, stats = free_ports(3)
    ports = {
        "http": settings.http_port,
        "backend": server.server_port,
        "metrics": metrics,
        "grpc": grpc,
        "stats": stats,
    }
    config.write_text(CONFIG.format(**ports))
    wrapper = settings.node_environment()["RAY_SERVE_HAPROXY_BINARY_PATH"]
    checked = subprocess.run(
        [wrapper, "-c", "-f", str(config)], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen([wrapper, "-db", "-f", str(config)], stderr=subprocess.PIPE)
    try:
        _wait_for(settings.http_port, process)
        yield ports
    finally:
        process.terminate()
        process.communicate(timeout=30)
        server.shutdown()
        thread.join()
        server.server_close()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None
        time.sleep(0.02)
    raise AssertionError("HAProxy does not listen")


def test_clients_of_a_generated_certificate_reach_the_platform_and_strangers_are_told(
    settings: Settings, tmp_path: Path
) -> None:
    certificate = write_certificate(settings)
    assert certificate is not None
    write_haproxy(settings)
    assert settings.local_url == settings.base_url == f"https://127.0.0.1:{settings.http_port}"
    with haproxy(settings, tmp_path / "haproxy.cfg") as ports:
        client = Transport(settings.base_url, SecretStr("lm_x"), settings.trust(settings.base_url))
        assert client.get("/anything") == {"live": True}
        # a client elsewhere, that was given the certificate and knows the host by name
        elsewhere = Settings(home=tmp_path / "b", url=f"https://localhost:{ports['http']}", tls_ca=certificate.path)
        assert Transport(elsewhere.base_url, SecretStr("lm_x"), elsewhere.trust(elsewhere.base_url)).get("/") == {
            "live": True
        }
        stranger = Settings(home=tmp_path / "c", url=f"https://localhost:{ports['http']}")
        with pytest.raises(UnavailableError, match="certificate"):
            Transport(stranger.base_url, SecretStr("lm_x"), stranger.trust(stranger.base_url)).get("/")
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{ports['http']}/", timeout=5.0, trust_env=False)
        shown = ssl.get_server_certificate(("127.0.0.1", ports["http"])).encode()
        assert x509.load_pem_x509_certificate(shown).fingerprint(hashes.SHA256()).hex(":").upper() == (
            certificate.fingerprint
        )
        assert _spoken(ports["http"], certificate.path, ("h2", "http/1.1")) == ("TLSv1.3", "h2")
        assert _spoken(ports["http"], certificate.path, ("http/1.1",), most=ssl.TLSVersion.TLSv1_2) == (
            "TLSv1.2",
            "http/1.1",
        )
        assert _spoken(ports["grpc"], certificate.path, ("h2",))[1] == "h2"
        with pytest.raises(ssl.SSLError):
            _spoken(ports["http"], certificate.path, (), most=ssl.TLSVersion.TLSv1_1)
        with pytest.raises(ssl.SSLError):
            _spoken(ports["http"], certificate.path, (), most=ssl.TLSVersion.TLSv1_2, ciphers="AES128-SHA:@SECLEVEL=0")


def _spoken(
    port: int, ca: Path, protocols: tuple[str, ...], *, most: ssl.TLSVersion | None = None, ciphers: str = ""
) -> tuple[str | None, str | None]:
    """Return the version and protocol that a client agrees on with the port."""
    context = ssl.create_default_context(cafile=ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    if most:
        context.maximum_version = most
    if ciphers:
        context.set_ciphers(ciphers)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        return wrapped.version(), wrapped.selected_alpn_protocol()


def test_a_given_certificate_is_known_on_this_machine_whatever_its_names(settings: Settings, tmp_path: Path) -> None:
    certificate, key = given(tmp_path)
    own = settings.model_copy(update={"tls": "", "tls_certificate": certificate, "tls_key": key})
    written = write_certificate(own)
    assert written is not None
    write_haproxy(own)
    with haproxy(own, tmp_path / "haproxy.cfg"):
        assert Transport(own.local_url, SecretStr("lm_x"), own.trust(own.local_url)).get("/") == {"live": True}
    # another certificate in its place is not the one that was pinned
    impostor = settings.model_copy(update={"home": tmp_path / "other"})
    write_certificate(impostor)
    write_haproxy(impostor.model_copy(update={"home": settings.home}))
    settings.tls_path.write_bytes(impostor.tls_path.read_bytes())
    with haproxy(own, tmp_path / "haproxy.cfg"), pytest.raises(UnavailableError, match="certificate"):
        Transport(own.local_url, SecretStr("lm_x"), own.trust(own.local_url)).get("/")


def test_the_rewritten_configuration_stays_as_it_is_when_it_is_rewritten_again(
    settings: Settings, tmp_path: Path
) -> None:
    write_certificate(settings)
    write_haproxy(settings)
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.format(http=settings.http_port, backend=1, metrics=2, grpc=3, stats=4))
    wrapper = settings.node_environment()["RAY_SERVE_HAPROXY_BINARY_PATH"]
    seen = []
    for _ in range(2):
        subprocess.run([wrapper, "-v", "-f", str(config)], capture_output=True, timeout=60, check=True)
        seen.append(config.read_text())
    assert seen[0] == seen[1]
    lines = [line.strip() for line in seen[0].splitlines() if "bind" in line]
    assert [" ssl crt " in line for line in lines] == [False, True, True, False]
    assert all("ssl-min-ver TLSv1.2" in line for line in lines if "ssl" in line)


def test_a_generated_certificate_and_its_key_are_for_their_owner_and_stay_until_they_are_due(tmp_path: Path) -> None:
    settings = encrypted(tmp_path, tls="generate")
    first = write_certificate(settings)
    assert first is not None
    for path in (settings.tls_path, settings.tls_certificate_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"PRIVATE KEY" not in settings.tls_certificate_path.read_bytes()
    assert write_certificate(settings) == first
    late = write_certificate(settings, now=lambda: first.expires - timedelta(days=29))
    assert late is not None and late.fingerprint != first.fingerprint
    moved = write_certificate(settings.model_copy(update={"host": "10.0.0.7"}))
    assert moved is not None and moved.fingerprint != late.fingerprint
    names = x509.load_pem_x509_certificate(settings.tls_certificate_path.read_bytes()).extensions
    found = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "10.0.0.7" in map(str, found.get_values_for_type(x509.IPAddress))
    assert not names.get_extension_for_class(x509.BasicConstraints).value.ca


def test_without_tls_nothing_is_made(tmp_path: Path) -> None:
    settings = encrypted(tmp_path)
    assert write_certificate(settings) is None
    assert settings.local_url.startswith("http:") and not settings.home.exists()
    assert settings.trust(settings.local_url) is True


def test_what_is_no_pair_of_certificate_and_key_is_refused_with_a_remedy(tmp_path: Path) -> None:
    certificate, key = given(tmp_path)
    (tmp_path / "old").mkdir()
    old_certificate, old_key = given(tmp_path / "old", days=-1)
    (tmp_path / "noise").write_bytes(b"\0noise")
    cases = [
        (tmp_path / "missing", key, NotFoundError, "missing.*LIGHTMILL_TLS_CERTIFICATE"),
        (certificate, tmp_path / "missing", NotFoundError, "missing.*LIGHTMILL_TLS_KEY"),
        (tmp_path / "noise", key, RequestError, "no certificate in PEM"),
        (certificate, tmp_path / "noise", RequestError, "no private key in PEM"),
        (certificate, None, RequestError, "no private key in PEM"),
        (certificate, old_key, RequestError, "does not belong to the certificate"),
        (old_certificate, old_key, RequestError, "expired at"),
    ]
    for crt, secret, kind, message in cases:
        with pytest.raises(kind, match=message):
            write_certificate(encrypted(tmp_path, tls_certificate=crt, tls_key=secret))


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="LIGHTMILL_TLS_KEY needs"):
        Settings(home=tmp_path, tls_key=tmp_path / "k")
    monkeypatch.setenv("LIGHTMILL_TLS", "generate")
    monkeypatch.setenv("LIGHTMILL_TLS_CERTIFICATE", "c.crt")
    with pytest.raises(RequestError, match="exclude each other; set one of them"):
        Settings.read()


def test_certificates_to_trust_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "noise").write_text("noise")
    for name in ("noise", "missing"):
        with pytest.raises(RequestError, match=rf"{name} holds no certificates.*LIGHTMILL_TLS_CA"):
            Settings(home=tmp_path, tls_ca=tmp_path / name).trust("https://platform.example")
