"""AWS Signature Version 4, as far as tests need it to talk to an S3 server without the client under test.

Source: "Create a signed AWS API request", AWS IAM User Guide.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime


def signed_headers(
    method: str, host: str, path: str, query: str, body: bytes, access_key: str, secret_key: str, region: str
) -> dict[str, str]:
    """Return the headers of a signed request; `path` and `query` are sent as they are (no escapes needed)."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": now}
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = "\n".join([method, path, _canonical(query), lines, names, digest])
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    credential = f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}"
    return headers | {"authorization": f"{credential},SignedHeaders={names},Signature={signature}"}


def _canonical(query: str) -> str:
    parts = [part if "=" in part else f"{part}=" for part in query.split("&") if part]
    return "&".join(sorted(parts))
