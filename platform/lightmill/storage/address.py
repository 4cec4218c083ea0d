"""The addresses of remote stores: what a URL may say, and that it never says a secret.

    s3://BUCKET/PREFIX?endpoint=http://host:port&region=eu-central-1&addressing=path
    gs://BUCKET/PREFIX?endpoint=http://host:port
    az://CONTAINER/PREFIX?account=NAME&endpoint=http://host:port

Everything but the bucket may be left out. A refused URL is never quoted, since it may hold a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

from lightmill.errors import RequestError

CREDENTIALS: Final = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or the role of the machine",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT (a file), or the account of the machine",
    "az": "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY, or the identity of the machine",
}
"""Per scheme, the environment variables that hold the credentials."""

_OPTIONS = {"s3": ("endpoint", "region", "addressing"), "gs": ("endpoint",), "az": ("account", "endpoint")}
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_PREFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}(?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,199})*")
_WORD = re.compile(r"[A-Za-z0-9-]{1,63}")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+(?:/[A-Za-z0-9._/-]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteAddress:
    """Where a remote store is; holds no secret."""

    # "s3", "gs" or "az".
    scheme: str
    # The bucket, which Azure calls container.
    bucket: str
    # The folder in the bucket that is the store, without slashes at its ends; "" is the whole bucket.
    prefix: str = ""
    # http(s)://host[:port] of the service; "" is the provider's own.
    endpoint: str = ""
    # S3: the region that requests are signed for; "" is AWS_REGION or the client's default.
    region: str = ""
    # S3: "path" puts the bucket into the path, "virtual" into the host name.
    addressing: str = "path"
    # Azure: the storage account; "" is AZURE_STORAGE_ACCOUNT_NAME.
    account: str = ""

    @property
    def url(self) -> str:
        """The URL that opens this store again."""
        said = {"account": self.account, "endpoint": self.endpoint, "region": self.region}
        if self.addressing != "path":
            said["addressing"] = self.addressing
        query = "&".join(f"{key}={quote(value, safe=':/[]')}" for key, value in said.items() if value)
        where = f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        return f"{where}?{query}" if query else where

    @property
    def credentials(self) -> str:
        """Where the credentials come from, for messages."""
        return CREDENTIALS[self.scheme]


def parse_address(text: str) -> RemoteAddress:
    """Return the address that a URL gives.

    Raises:
        RequestError: When the URL holds credentials, an option that its scheme has not, or a malformed part. The
            message never quotes the URL.
    """
    try:
        url = urlsplit(text)
        pairs = parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query), max_num_fields=16)
    except ValueError:
        raise RequestError(f"The store's URL cannot be read; write {_form('s3')}") from None
    if url.scheme not in _OPTIONS:
        raise RequestError(f"A store has no scheme {url.scheme[:20]!r}; use one of s3, gs and az")
    if "@" in url.netloc:
        raise RequestError(_no_secrets(url.scheme, "a user name or password"))
    return _checked(url, _options(url.scheme, pairs))


def _options(scheme: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
    options = dict(pairs)
    for key in options:
        if key not in _OPTIONS[scheme]:
            raise RequestError(_no_secrets(scheme, f"the option {key[:40]!r}"))
    if len(options) != len(pairs):
        raise RequestError(f"An option of the store's URL is given twice; write {_form(scheme)}")
    if "@" in options.get("endpoint", "") or "?" in options.get("endpoint", ""):
        raise RequestError(_no_secrets(scheme, "a user name, password or query in its endpoint"))
    return options


def _checked(url: SplitResult, options: dict[str, str]) -> RemoteAddress:
    prefix = url.path.strip("/")
    endpoint = options.get("endpoint", "").rstrip("/")
    wrong = {
        "bucket": not _BUCKET.fullmatch(url.netloc),
        "prefix": bool(prefix) and not _PREFIX.fullmatch(prefix),
        "fragment": bool(url.fragment),
        "endpoint": "endpoint" in options and not _ENDPOINT.fullmatch(endpoint),
        "region": "region" in options and not _WORD.fullmatch(options["region"]),
        "addressing": options.get("addressing", "path") not in ("path", "virtual"),
        "account": "account" in options and not _WORD.fullmatch(options["account"]),
    }
    for part, is_wrong in wrong.items():
        if is_wrong:
            raise RequestError(f"The {part} of the store's URL is malformed; write {_form(url.scheme)}")
    return RemoteAddress(
        scheme=url.scheme,
        bucket=url.netloc,
        prefix=prefix,
        endpoint=endpoint,
        region=options.get("region", ""),
        addressing=options.get("addressing", "path"),
        account=options.get("account", ""),
    )


def _form(scheme: str) -> str:
    forms = {"endpoint": "http://HOST:PORT", "region": "REGION", "addressing": "path|virtual", "account": "NAME"}
    options = "&".join(f"{name}={forms[name]}" for name in _OPTIONS[scheme])
    return f"{scheme}://BUCKET/PATH[?{options}]"


def _no_secrets(scheme: str, what: str) -> str:
    return (
        f"The store's URL has {what}, which a {scheme} URL may not have: URLs are shown and logged. Write "
        f"{_form(scheme)} and give the credentials by environment variables: {CREDENTIALS[scheme]}"
    )
