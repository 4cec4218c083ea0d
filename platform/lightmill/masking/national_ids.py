"""National identity numbers of ten countries: their spelling, and the check digits that tell them from other numbers.

A bare spelling (digits alone) of which more than one in a hundred numbers of that length passes is weak: it counts
only where a word near, the column's name or the JSON key says what it is.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import date

from lightmill.masking.checksums import mod_11_10, verhoeff, weighted
from lightmill.masking.detector import END, START, PatternDetector, compact, words

_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_CODICE_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
_DIGIT = "[0-9LMNPQRSTUV]"  # where two people would have one code, letters stand for digits (omocodia)
_CODICE = (
    rf"[A-Z]{{3}}[ -]?[A-Z]{{3}}[ -]?{_DIGIT}{{2}}[ -]?[ABCDEHLMPRST][ -]?{_DIGIT}{{2}}"
    rf"[ -]?[A-Z][ -]?{_DIGIT}{{3}}[ -]?[A-Z]"
)
_PESEL_CENTURIES = {0: 1900, 1: 2000, 2: 2100, 3: 2200, 4: 1800}


def is_ssn(digits: str) -> bool:
    """Return whether area, group and serial may be issued (Social Security Administration, POMS RM 10201.035)."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


def is_steuer_id(digits: str) -> bool:
    """Return whether one digit of the first ten repeats, once or twice, and ISO/IEC 7064 MOD 11,10 holds (BZSt)."""
    repeated = [count for count in Counter(digits[:10]).values() if count > 1]
    return digits[0] != "0" and repeated in ([2], [3]) and mod_11_10(digits)


def is_nir(code: str) -> bool:
    """Return whether the key is 97 less the number modulo 97, with 2A as 19 and 2B as 18 (INSEE, RNIPP)."""
    number = code[:13].replace("2A", "19").replace("2B", "18")
    return number.isdecimal() and 97 - int(number) % 97 == int(code[13:])


def is_codice_fiscale(code: str) -> bool:
    """Return whether the sixteenth letter is the check character (decree of 23 December 1976, Italy)."""
    total = 0
    for place, character in enumerate(code[:15]):
        value = int(character) if character.isdecimal() else ord(character) - ord("A")
        total += value if place % 2 else _CODICE_ODD[value]
    return chr(ord("A") + total % 26) == code[15]


def is_dni(code: str) -> bool:
    """Return whether the letter is that of the number modulo 23; a NIE has X, Y, Z for 0, 1, 2 (Interior Ministry)."""
    number = code[:-1].translate({ord("X"): "0", ord("Y"): "1", ord("Z"): "2"})
    return _DNI_LETTERS[int(number) % 23] == code[-1]


def is_bsn(digits: str) -> bool:
    """Return whether the eleven test holds, weights 9 to 2 and -1 (Logisch Ontwerp BSN)."""
    return int(digits) > 0 and weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def is_pesel(digits: str) -> bool:
    """Return whether a day of 1900 to 2099 and the check digit, weights 1 3 7 9, are there (law of 24.9.2010)."""
    century = _PESEL_CENTURIES[int(digits[2]) // 2]
    if century not in (1900, 2000) or weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10:
        return False
    try:
        date(century + int(digits[:2]), int(digits[2:4]) % 20, int(digits[4:6]))
    except ValueError:
        return False
    return True


def is_cpf(digits: str) -> bool:
    """Return whether both check digits modulo 11 hold and not all digits are equal (Receita Federal)."""
    first = -weighted(digits, range(10, 1, -1)) % 11
    second = -weighted(digits, range(11, 1, -1)) % 11
    return len(set(digits)) > 1 and digits[9:] == f"{first % 10}{second % 10}"


def _digits_alone(found: str) -> bool:
    return found.isdecimal()


def _weak_always(_: str) -> bool:
    return True


SSN = PatternDetector(
    name="us_ssn",
    hint=r"\d{3}[ .-]?\d{2}[ .-]?\d{4}",
    patterns=(re.compile(rf"{START}(?:\d{{9}}|\d{{3}}[ .-]\d{{2}}[ .-]\d{{4}}){END}"),),
    check=lambda found: is_ssn(compact(found)),
    weak=_digits_alone,
    context=words("ssn", "social security", "social sec", "soc sec", "tax ?payer", "tin"),
    numeric=True,
)

NINO = PatternDetector(
    name="uk_nino",
    hint=r"[A-Za-z]{2}[ -]?\d{2}[ -]?\d{2}[ -]?\d{2}[ -]?[A-Da-d]",
    patterns=(
        re.compile(
            rf"{START}(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?:[ -]?\d\d){{3}}[ -]?[A-D]{END}",
            re.IGNORECASE,
        ),
    ),
)

STEUER_ID = PatternDetector(
    name="de_tax_id",
    hint=r"\d{2}[ .-]?\d{3}[ .-]?\d{3}[ .-]?\d{3}",
    patterns=(re.compile(rf"{START}\d{{2}}[ .-]?\d{{3}}[ .-]?\d{{3}}[ .-]?\d{{3}}{END}"),),
    check=lambda found: is_steuer_id(compact(found)),
    context=words("steuer", r"steuer[a-z-]{0,30}", "idnr", "id ?nr", "tax", "tin"),
    numeric=True,
)

NIR = PatternDetector(
    name="fr_nir",
    hint=r"[1-478][ .-]?\d{2}[ .-]?\d{2}[ .-]?\d[\dABab]",
    patterns=(
        re.compile(
            rf"{START}[1-478][ .-]?\d\d[ .-]?(?:0[1-9]|1[0-2]|[2-9]\d)[ .-]?(?:\d\d|2[AB])"
            rf"[ .-]?\d{{3}}[ .-]?\d{{3}}[ .-]?\d\d{END}",
            re.IGNORECASE,
        ),
    ),
    check=lambda found: is_nir(compact(found)),
    context=words(
        "nir", "insee", "sécu", "secu", "sécurité sociale", "securite sociale", "numéro de sécurité", "social"
    ),
    numeric=True,
)

CODICE_FISCALE = PatternDetector(
    name="it_fiscal_code",
    hint=rf"(?i)(?:^|[^0-9a-z]|[a-z]{{3}}){_CODICE}",
    patterns=(re.compile(rf"{START}{_CODICE}{END}", re.IGNORECASE),),
    check=lambda found: is_codice_fiscale(compact(found)),
)

DNI = PatternDetector(
    name="es_dni",
    hint=r"(?:\d{2}|[XYZxyz])[ .-]?\d[ .]?\d{3}[ .]?\d{3}[ -]?[A-Za-z]|\d{2}\.?\d{3}\.?\d{3}[ -]?[A-Za-z]",
    patterns=(
        re.compile(
            rf"{START}(?:\d{{2}}|[XYZ][ .-]?\d)[ .]?\d{{3}}[ .]?\d{{3}}[ -]?[{_DNI_LETTERS}]{END}",
            re.IGNORECASE,
        ),
    ),
    check=lambda found: is_dni(compact(found)),
)

BSN = PatternDetector(
    name="nl_bsn",
    hint=r"\d{3}[ .-]?\d[ .-]?\d{2}[ .-]?\d{3}|\d{4}[ .-]\d{2}[ .-]\d{3}|\d{3}[ .-]\d{3}[ .-]\d{3}",
    patterns=(re.compile(rf"{START}(?:\d{{9}}|\d{{4}}[ .-]\d{{2}}[ .-]\d{{3}}|\d{{3}}[ .-]\d{{3}}[ .-]\d{{3}}){END}"),),
    check=lambda found: is_bsn(compact(found)),
    weak=_weak_always,
    context=words("bsn", "burgerservicenummer", "burger ?service ?nummer", "sofi", "sofinummer", "citizen service"),
    numeric=True,
)

PESEL = PatternDetector(
    name="pl_pesel",
    hint=r"\d{6}[ -]?\d{5}",
    patterns=(re.compile(rf"{START}\d{{6}}[ -]?\d{{5}}{END}"),),
    check=lambda found: is_pesel(compact(found)),
    context=words("pesel"),
    numeric=True,
)

CPF = PatternDetector(
    name="br_cpf",
    hint=r"\d{3}[ .]?\d{3}[ .]?\d{3}[ .-]?\d{2}",
    patterns=(re.compile(rf"{START}\d{{3}}[ .]?\d{{3}}[ .]?\d{{3}}[ .-]?\d{{2}}{END}"),),
    check=lambda found: is_cpf(compact(found)),
    context=words("cpf"),
    numeric=True,
)

AADHAAR = PatternDetector(
    name="in_aadhaar",
    hint=r"[2-9]\d{3}[ .-]?\d{4}[ .-]?\d{4}",
    patterns=(re.compile(rf"{START}[2-9]\d{{3}}[ .-]?\d{{4}}[ .-]?\d{{4}}{END}"),),
    check=lambda found: verhoeff(compact(found)),
    weak=_digits_alone,
    context=words("aadhaar", "aadhar", "adhaar", "uid", "uidai"),
    numeric=True,
)

NATIONAL_IDS = (CODICE_FISCALE, NIR, DNI, NINO, STEUER_ID, PESEL, CPF, SSN, AADHAAR, BSN)
