"""The page at `/docs`, on which an endpoint is tried in a browser; it loads nothing from elsewhere."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path

from lightmill.serving.protocols.forms import Reply

_PAGE = Path(__file__).with_name("docs.html")


@functools.cache
def page() -> Reply:
    """Return the page; its only script is named by its digest, so that no other runs (CSP level 3, hash-source)."""
    text = _PAGE.read_text(encoding="utf-8")
    script = text[text.index("<script>") + len("<script>") : text.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = (
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-cache"),
    )
    return Reply(body=text.encode(), headers=headers)
