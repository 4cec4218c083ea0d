"""Payment card numbers (ISO/IEC 7812-1) and IBANs (ISO 13616)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lightmill.masking.checksums import luhn, mod_97
from lightmill.masking.detector import END, START, Detector, PatternDetector, Span, compact, words

IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FK FI FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}
"""The length of an IBAN by its country, from the SWIFT IBAN registry."""

# Issuer prefixes and lengths: Visa, Mastercard, American Express, Diners, Discover, UnionPay, JCB, Maestro, Mir, RuPay.
_SCHEMES = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|09|[689]\d)\d{11,16}|6(?:011|4[4-9]\d|5\d\d)\d{12,15}|62\d{14,17}|35(?:2[89]|[3-8]\d)\d{12,15}"
    r"|(?:50|5[6-8]|6[0-9])\d{10,17}|220[0-4]\d{12,15}|8[12]\d{14}|9792\d{12}"
)
_GAP = r"[ ._/-]{1,2}"
_FOURS = rf"\d{{4}}{_GAP}\d{{4}}{_GAP}\d{{4}}{_GAP}"
_CARDS = (
    re.compile(rf"{START}(?:\d{{12,19}}|{_FOURS}\d{{4}}|\d{{4}}{_GAP}\d{{6}}{_GAP}\d{{4,5}}){END}"),
    re.compile(rf"{START}{_FOURS}(?:\d{{4}}{_GAP})?\d{{1,3}}{END}"),
)


def _is_card(found: str) -> bool:
    digits = compact(found)
    return luhn(digits) and len(set(digits)) > 1


def _no_known_scheme(found: str) -> bool:
    return found.isdecimal() and not _SCHEMES.fullmatch(found)


CARD = PatternDetector(
    name="card",
    hint=rf"\d{{12}}|\d{{4}}{_GAP}\d{{4,6}}{_GAP}\d{{4}}",
    patterns=_CARDS,
    check=_is_card,
    weak=_no_known_scheme,
    context=words(
        "cards?",
        "card ?n(?:o|r|um|umber)",
        "credit",
        "debit",
        "pan",
        "visa",
        "mastercard",
        "maestro",
        "amex",
        "cc",
        "kreditkarte",
        "karte",
        "kartennummer",
        "carte",
        "tarjeta",
        "carta",
        "cartão",
    ),
    numeric=True,
)

_COUNTRIES = "|".join(IBAN_LENGTHS)
_TAILS = {length: re.compile(rf"(?:[ -]?[0-9A-Za-z]){{{length - 4}}}") for length in set(IBAN_LENGTHS.values())}


class IbanDetector(Detector):
    """IBANs: country, check digits, as many letters and digits as that country's have; single separators between."""

    name = "iban"
    hint = rf"(?i)(?:(?:^|[^0-9a-z])(?:{_COUNTRIES})[ -]?|[a-z]{{3}}(?:{_COUNTRIES}))\d[ -]?\d(?:[ -]?[0-9a-z]){{11}}"
    context = None
    numeric = False
    _head = re.compile(rf"{START}[A-Za-z]{{2}}[ -]?\d[ -]?\d(?=[ -]?[0-9A-Za-z])")

    def find(self, text: str, said: str) -> Iterator[Span]:
        """Yield every span with a known country, its length, and a remainder of 1 modulo 97."""
        for head in self._head.finditer(text):
            length = IBAN_LENGTHS.get(head[0][:2].upper())
            tail = _TAILS[length].match(text, head.end()) if length else None
            if tail is None:
                continue
            code = compact(text[head.start() : tail.end()])
            if mod_97(code[4:] + code[:4]) == 1:
                yield Span(head.start(), tail.end(), False)

    def normal(self, found: str) -> str:
        """Return the letters and digits in upper case."""
        return compact(found)


IBAN = IbanDetector()
