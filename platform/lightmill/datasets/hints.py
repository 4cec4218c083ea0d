"""What a column's name hints at: labels, keys, and personal data. English words; hints, not findings."""

from __future__ import annotations

import itertools
import re

LABELS = ("label", "target", "class", "outcome", "y", "category", "species", "kind", "churn", "diagnosis", "digit")
_KEYS = {"id", "uuid", "guid", "key"}
_PERSONAL: tuple[tuple[str, set[str]], ...] = (
    ("email", {"email", "mail", "e-mail", "emails"}),
    ("phone", {"phone", "telephone", "tel", "mobile", "fax", "cell", "cellphone"}),
    ("iban", {"iban"}),
    ("card", {"creditcard", "card", "pan", "ccnumber"}),
    ("national_id", {"ssn", "passport", "nationalid", "taxid", "nin", "nhs", "bsn", "cpf"}),
    ("ip", {"ip", "ipaddress", "ipv4", "ipv6"}),
    ("name", {"name", "firstname", "lastname", "surname", "fullname", "username", "givenname", "familyname"}),
    ("address", {"address", "street", "addr"}),
    ("postcode", {"zip", "zipcode", "postcode", "postal"}),
    ("birth_date", {"birth", "birthdate", "birthday", "dob"}),
)


def words(name: str) -> list[str]:
    """Return the words of a column name in lower case: `userEmail_2` gives user, email, 2."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word for word in re.split(r"[^0-9a-z]+", spaced.lower()) if word]


def personal_tag(name: str) -> str | None:
    """Return the kind of personal data that a name hints at, or None."""
    found = words(name)
    joined = {*found, *("".join(pair) for pair in itertools.pairwise(found))}
    return next((tag for tag, hints in _PERSONAL if joined & hints), None)


def is_key(name: str) -> bool:
    """Return whether a name hints at an identifier: its last word is id, uuid, guid or key."""
    found = words(name)
    return bool(found) and found[-1] in _KEYS


def label_rank(name: str) -> int | None:
    """Return how strongly a name hints at a label, 0 the most; None for no hint."""
    found = "_".join(words(name))
    return LABELS.index(found) if found in LABELS else None
