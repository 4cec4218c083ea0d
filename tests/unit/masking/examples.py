"""Seeded identifiers, each with the spellings in which people write it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from datetime import date, timedelta

from lightmill.masking.checksums import luhn_digit, mod_11_10, mod_97, verhoeff, weighted
from lightmill.masking.financial import IBAN_LENGTHS
from lightmill.masking.national_ids import is_bsn, is_cpf, is_ssn, is_steuer_id
from lightmill.records.masking import MaskingPolicy, parse_masking_policy

KEY = bytes(range(32))
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FIRST_NAMES = ("ana", "björn", "chen", "dara", "emre", "fatou", "goran", "hana", "ines", "jan")


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def until(rng: random.Random, count: int, valid: Callable[[str], bool]) -> str:
    return next(found for found in (digits(rng, count) for _ in itertools.count()) if valid(found))


def grouped(text: str, *sizes: int, by: str = " ") -> str:
    ends = list(itertools.accumulate(sizes))
    return by.join(text[end - size : end] for size, end in zip(sizes, ends, strict=True))


def email(rng: random.Random) -> list[str]:
    name = f"{rng.choice(FIRST_NAMES)}{rng.choice(('.', '_', '-', '+', ''))}{digits(rng, 5)}"
    address = f"{name}@{rng.choice(('mail', 'post.example', 'x-y'))}.{rng.choice(('com', 'co.uk', 'museum', 'de'))}"
    return [address, address.upper(), address.replace("@", "%40")]


def phone(rng: random.Random) -> list[str]:
    kind = rng.randrange(4)
    if kind == 0:
        number = f"{rng.randint(2, 9)}{digits(rng, 2)}{rng.randint(2, 9)}{digits(rng, 6)}"
        area, middle, last = number[:3], number[3:6], number[6:]
        return [f"({area}) {middle}-{last}", f"{area}-{middle}-{last}", f"+1 {area} {middle} {last}", f"+1{number}"]
    if kind == 1:
        number = f"0{rng.choice('67')}{digits(rng, 8)}"
        return [grouped(number, 2, 2, 2, 2, 2), grouped(number, 2, 2, 2, 2, 2, by="."), f"+33{number[1:]}"]
    if kind == 2:
        number = f"07{digits(rng, 9)}"
        return [grouped(number, 5, 6), grouped(number, 5, 3, 3), f"+44 {grouped(number[1:], 4, 6)}", f"+44{number[1:]}"]
    number = f"0{rng.choice(('30', '89', '221'))}{digits(rng, 7)}"
    area, rest = (number[:4], number[4:]) if number.startswith("0221") else (number[:3], number[3:])
    return [f"{area}/{rest}", f"({area}) {rest}", f"+49 {area[1:]} {rest}", f"0049 {area[1:]} {rest}"]


def card(rng: random.Random) -> list[str]:
    head, length = rng.choice((("4", 16), ("52", 16), ("2300", 16), ("34", 15), ("6011", 16), ("36", 14), ("62", 19)))
    body = head + digits(rng, length - 1 - len(head))
    number = body + luhn_digit(body)
    sizes = {14: (4, 6, 4), 15: (4, 6, 5), 16: (4, 4, 4, 4), 19: (4, 4, 4, 4, 3)}[length]
    return [number, grouped(number, *sizes), grouped(number, *sizes, by="-")]


def iban(rng: random.Random) -> list[str]:
    country = rng.choice(sorted(IBAN_LENGTHS))
    account = digits(rng, IBAN_LENGTHS[country] - 4)
    code = f"{country}{98 - mod_97(account + country + '00'):02d}{account}"
    fours = " ".join(code[start : start + 4] for start in range(0, len(code), 4))
    return [code, fours, fours.replace(" ", "-"), code.lower()]


def us_ssn(rng: random.Random) -> list[str]:
    number = until(rng, 9, is_ssn)
    return [grouped(number, 3, 2, 4, by="-"), grouped(number, 3, 2, 4), number]


def de_tax_id(rng: random.Random) -> list[str]:
    number = until(rng, 11, is_steuer_id)
    assert mod_11_10(number)
    return [number, grouped(number, 2, 3, 3, 3)]


def es_dni(rng: random.Random) -> list[str]:
    number = digits(rng, 8)
    letter = "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23]
    dotted = f"{grouped(number, 2, 3, 3, by='.')}-{letter}"
    return [number + letter, f"{number}-{letter}", dotted, (number + letter).lower()]


def nl_bsn(rng: random.Random) -> list[str]:
    number = until(rng, 9, is_bsn)
    return [number, grouped(number, 4, 2, 3, by=".")]


def br_cpf(rng: random.Random) -> list[str]:
    number = until(rng, 11, is_cpf)
    return [number, f"{grouped(number[:9], 3, 3, 3, by='.')}-{number[9:]}"]


def pl_pesel(rng: random.Random) -> list[str]:
    day = date(1930, 1, 1) + timedelta(days=rng.randrange(34_000))
    month = day.month + (20 if day.year >= 2000 else 0)
    body = f"{day.year % 100:02d}{month:02d}{day.day:02d}{digits(rng, 4)}"
    return [f"{body}{-weighted(body, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10}"]


def in_aadhaar(rng: random.Random) -> list[str]:
    number = until(rng, 12, lambda found: found[0] in "23456789" and verhoeff(found))
    return [grouped(number, 4, 4, 4), grouped(number, 4, 4, 4, by="-"), number]


def uk_nino(rng: random.Random) -> list[str]:
    code = f"{rng.choice('ABCEHJLMPRS')}{rng.choice('ABCEHJLMPRS')}{digits(rng, 6)}{rng.choice('ABCD')}"
    return [code, grouped(code, 2, 2, 2, 2, 1), code.lower()]


def fr_nir(rng: random.Random) -> list[str]:
    place = rng.choice(("2A", "2B", "75", "33"))
    body = f"{rng.choice('12')}{digits(rng, 2)}{rng.randint(1, 12):02d}{place}{digits(rng, 6)}"
    key = 97 - int(body.replace("2A", "19").replace("2B", "18")) % 97
    return [f"{body}{key:02d}", grouped(f"{body}{key:02d}", 1, 2, 2, 2, 3, 3, 2)]


def it_fiscal_code(rng: random.Random) -> list[str]:
    odd = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    name = "".join(rng.choice("BCDFGHLMNPRSTVZ") for _ in range(6))
    body = f"{name}{digits(rng, 2)}{rng.choice('ABCDEHLMPRST')}{rng.randint(1, 28):02d}{rng.choice('ABCDEFGHIL')}"
    body += digits(rng, 3)
    values = [int(character) if character.isdigit() else LETTERS.index(character) for character in body]
    total = sum(value if place % 2 else odd[value] for place, value in enumerate(values))
    code = body + LETTERS[total % 26]
    return [code, grouped(code, 3, 3, 5, 5), code.lower()]


def ipv4(rng: random.Random) -> list[str]:
    return [".".join(str(rng.randint(1, 254)) for _ in range(4)).replace("127.", "128.")]


def ipv6(rng: random.Random) -> list[str]:
    groups = [f"{rng.randrange(0x1000, 0xFFFF):x}" for _ in range(4)]
    return [f"2001:db8:{groups[0]}::{groups[1]}", "2a02:0:0:0:" + ":".join(groups)]


def mac(rng: random.Random) -> list[str]:
    pairs = [f"{rng.randrange(256):02x}" for _ in range(5)]
    return [":".join([*pairs, "a1"]), "-".join([*pairs, "a1"]).upper()]


MAKERS: dict[str, Callable[[random.Random], list[str]]] = {
    maker.__name__: maker
    for maker in (
        email, phone, card, iban, us_ssn, de_tax_id, es_dni, nl_bsn, br_cpf, pl_pesel,
        in_aadhaar, uk_nino, fr_nir, it_fiscal_code, ipv4, ipv6, mac,
    )
}  # fmt: skip
SAID = {
    "us_ssn": "SSN", "nl_bsn": "BSN", "in_aadhaar": "Aadhaar", "phone": "Phone", "email": "Mail", "card": "Card",
    "iban": "Account", "de_tax_id": "Steuer-ID", "es_dni": "DNI", "br_cpf": "CPF", "pl_pesel": "PESEL",
}  # fmt: skip


def policy(*rules: dict[str, object], name: str = "staff") -> MaskingPolicy:
    return parse_masking_policy({"name": name, "rules": list(rules)}, "test")


REDACT_ALL = policy({"detectors": ["all"], "action": "redact"})
