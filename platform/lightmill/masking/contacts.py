"""E-mail addresses (RFC 5322 and 6531, without comments) and telephone numbers (ITU-T E.164, E.123, national forms)."""

from __future__ import annotations

import re

from lightmill.masking.detector import PatternDetector, compact, plain, words

_EMAIL = re.compile(
    r"(?<!\w)(?<!\w[.+'-])"
    r'(?:\w[\w.+\'-]{0,255}+|"[^"\s][^"\r\n]{0,62}")'
    r"(?:@|%40)"
    r"(?:\w(?:[\w-]{0,62})(?:\.\w[\w-]{0,62}){1,8}+|\[[0-9a-fA-F.:]{2,45}\])",
    re.IGNORECASE,
)

_INTERNATIONAL = r"(?:\+|00[ ]?)\(?[1-9](?:[ .\-/()]{0,2}\d){6,14}"
_NORTH_AMERICAN = r"(?:1[ .-])?(?:\([2-9]\d{2}\)|[2-9]\d{2})[ .-]{1,2}[2-9]\d{2}[ .-]\d{4}"
_TRUNK = r"(?:\(0\d{1,5}\)[ .\-/]{0,3}|0\d{1,5}[ .\-/]{1,3})\d{2,8}(?:[ .\-/]\d{2,6}){0,4}"
_DIGITS = r"\d(?:[ .\-/()]{0,3}\d){6,14}"
_BEFORE, _AFTER = r"(?<![0-9A-Za-z.])(?<!\d[:,])", r"(?![0-9A-Za-z])(?!\.\d)"
_PHONES = (
    re.compile(rf"{_BEFORE}(?:{_INTERNATIONAL}|{_NORTH_AMERICAN}|{_TRUNK}){_AFTER}"),
    re.compile(rf"{_BEFORE}{_DIGITS}{_AFTER}"),
)
_STRONG = re.compile(rf"\+.*|00[ ]?[1-9](?=.*[ .\-/()]).*|{_NORTH_AMERICAN}|{_TRUNK}")
_DATE = re.compile(
    r"(?:\d{4}([./-])[01]?\d\1[0-3]?\d|[0-3]?\d([./-])[0-3]?\d\2(?:\d{4}|\d{2}))(?!\d)"
    r"(?![./-]\d)(?:[ T(]+\d{1,2}(?:[:.\-]\d{2}){0,2})?"
)
_DECIMAL = re.compile(r"[+-]?\d+\.\d+")
_THOUSANDS = re.compile(r"\d{1,3}(?:([ .])\d{3})(?:\1\d{3})+")
_TRUNK_ONLY = re.compile(_TRUNK)
_ZIP_4 = re.compile(r"0\d{4}-\d{4}")


def _is_phone(found: str) -> bool:
    digits = len(compact(found))
    if not 7 <= digits <= 17 or _DATE.match(found) or _DECIMAL.fullmatch(found):
        return False
    return digits >= 9 or not _TRUNK_ONLY.fullmatch(found)


def _phone_normal(found: str) -> str:
    digits = compact(found)
    return digits[2:] if digits.startswith("00") else digits


EMAIL = PatternDetector(
    name="email",
    hint=r"@|%40",
    patterns=(_EMAIL,),
    normal_of=lambda found: re.sub("%40", "@", plain(found), flags=re.IGNORECASE).lower(),
)

PHONE = PatternDetector(
    name="phone",
    hint=r"\d(?:[ .\-/()]{0,3}\d){6}",
    patterns=_PHONES,
    check=_is_phone,
    weak=lambda found: not _STRONG.fullmatch(found) or bool(_THOUSANDS.fullmatch(found) or _ZIP_4.fullmatch(found)),
    normal_of=_phone_normal,
    context=words(
        "phones?",
        "telephone",
        "tel",
        "telefon",
        "tlf",
        "fon",
        "telefono",
        "teléfono",
        "téléphone",
        "telefoon",
        "fono",
        "mobiles?",
        "mobil",
        "mobiel",
        "móvil",
        "celular",
        "cell",
        "cellphone",
        "cellulare",
        "handy",
        "fax",
        "call",
        "ring",
        "dial",
        "sms",
        "whatsapp",
        "msisdn",
        "rufnummer",
        "numero di telefono",
        "komórka",
    ),
    numeric=True,
)
