"""Secrets: credentials in URLs (RFC 3986, section 3.2.1), keys with known prefixes, bearer tokens, assigned secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lightmill.masking.detector import Detector, PatternDetector, Span, words

_PLACEHOLDER = re.compile(r"\[[a-z0-9_]+\]|\*+")
_KNOWN = (
    r"(?:AKIA|ASIA)[0-9A-Z]{16}",  # Amazon Web Services
    r"AIza[\w-]{35}",  # Google
    r"gh[pousr]_[0-9A-Za-z]{36,255}",  # GitHub
    r"github_pat_\w{22,255}",
    r"glpat-[\w-]{20,255}",  # GitLab
    r"xox[abeoprs]-[0-9A-Za-z-]{10,255}",  # Slack
    r"[rs]k_(?:live|test)_[0-9A-Za-z]{16,255}",  # Stripe
    r"sk-[\w-]{20,255}",  # OpenAI and others
    r"hf_[0-9A-Za-z]{30,255}",  # Hugging Face
    r"npm_[0-9A-Za-z]{36}",
    r"pypi-[\w-]{50,255}",
    r"SG\.[\w-]{16,64}\.[\w-]{16,64}",  # SendGrid
    r"lm_[0-9a-f]{8}_[\w-]{43}",  # Lightmill
    r"eyJ[\w-]{8,4096}\.eyJ[\w-]{4,8192}\.[\w-]{0,1024}",  # JSON Web Tokens (RFC 7519)
)
_SECRET_WORDS = (
    r"pass ?(?:word|wd|phrase)",
    "pwd",
    "secret",
    "client ?secret",
    "api ?key",
    "apikey",
    "access ?key",
    "private ?key",
    r"(?:auth|access|refresh|bearer|session|api) ?token",
    "authorization",
)
_ASSIGNED = (
    r"(?:pass(?:word|wd|phrase)|pwd|secret|api[_-]?key|access[_-]?key|(?:auth|access|refresh|api)[_-]?token)"
    r"[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
)

URL_CREDENTIALS = PatternDetector(
    name="url_credentials",
    hint=r"://[^\s/@]+@",
    patterns=(re.compile(r"://(?!\[)([^\s/@\[\]\"'<>]{1,512})@"),),
    normal_of=str,
)


class ApiKeyDetector(Detector):
    """Keys and passwords: known prefixes, PEM blocks, bearer tokens, `password=...`, and values of keys so named."""

    name = "api_key"
    hint = (
        r"(?i)akia|asia|aiza|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|[rs]k_|sk-|hf_|npm_|pypi-|sg\.|lm_|eyj"
        r"|bearer|basic|pass|pwd|secret|key|token"
    )
    context = words(*_SECRET_WORDS)
    numeric = False
    by_name = True
    _patterns = (
        re.compile(rf"(?<![0-9A-Za-z])((?:{'|'.join(_KNOWN)}))(?![0-9A-Za-z])"),
        re.compile(r"(-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----[^-]{0,16384}(?:-----END [A-Z ]{0,32}PRIVATE KEY-----)?)"),
        re.compile(r"\b(?:bearer|basic)\s{1,3}([\w.~+/-]{16,8192}={0,2})", re.IGNORECASE),
        re.compile(rf"{_ASSIGNED}(?!(?:none|null|nil|true|false)\b)([^\s\"',;&\[]{{4,512}})", re.IGNORECASE),
    )

    def find(self, text: str, said: str) -> Iterator[Span]:
        """Yield what looks like a secret; where the column or key is named like one, the whole text."""
        if said and text and self.context and self.context.search(said) and not _PLACEHOLDER.fullmatch(text):
            yield Span(0, len(text), False)
            return
        for pattern in self._patterns:
            for match in pattern.finditer(text):
                yield Span(*match.span(1), False)

    def normal(self, found: str) -> str:
        """Return the secret as it is: every character counts."""
        return found


API_KEY = ApiKeyDetector()
