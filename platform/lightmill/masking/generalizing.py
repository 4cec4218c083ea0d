"""Saying values less exactly: ranges of numbers, coarser dates, networks of addresses, first characters."""

from __future__ import annotations

import re
from datetime import date
from ipaddress import ip_address, ip_network

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightmill.masking.detector import plain
from lightmill.records.masking import DateStep, GeneralizeRule

_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def ranges(values: npt.NDArray[np.float64], rule: GeneralizeRule) -> pa.Array:
    """Return the range of each number, half open, null for NaN.

    Args:
        values: float64 [rows].
        rule: Has `width`, or rising `edges`.

    Returns:
        Text such as "[20, 30)", or with `lower_bound` the lower end as float64.
    """
    missing = np.isnan(values)
    if rule.edges is not None:
        edges = np.array([-np.inf, *rule.edges, np.inf])
        place = np.searchsorted(edges[1:-1], values, side="right")
        low, high = edges[place], edges[place + 1]
    else:
        width = rule.width or 1.0
        step = np.floor(values / width)
        low, high = step * width, (step + 1) * width
    if rule.lower_bound:
        return pa.array(low, mask=missing)
    low[missing], high[missing] = 0.0, 0.0
    pairs, place = np.unique(np.column_stack([low, high]), axis=0, return_inverse=True)
    labels = pa.array([f"[{_shown(low)}, {_shown(high)})" for low, high in pairs.tolist()], pa.string())
    return labels.take(pa.array(place.reshape(-1), pa.int64(), mask=missing))


def _shown(bound: float) -> str:
    return str(int(bound)) if bound.is_integer() and abs(bound) < 2**53 else format(bound, ".12g")


def parse_number(text: str) -> float:
    """Return the number that a text spells, or NaN where it spells none."""
    try:
        return float(plain(text))
    except ValueError:
        return float("nan")


def parse_date(text: str) -> date | None:
    """Return the ISO 8601 date with which a text begins, or None where there is none."""
    found = _ISO_DATE.match(plain(text).strip())
    try:
        return date.fromisoformat(found[0]) if found else None
    except ValueError:
        return None


def coarse_date(day: date, step: DateStep) -> str:
    """Return the month, quarter, year or decade of a day: 2024-05, 2024-Q2, 2024, 2020s."""
    if step == "month":
        return f"{day.year:04d}-{day.month:02d}"
    if step == "quarter":
        return f"{day.year:04d}-Q{(day.month + 2) // 3}"
    return f"{day.year:04d}" if step == "year" else f"{day.year // 10:03d}0s"


def network_of(text: str, ipv4_bits: int, ipv6_bits: int) -> str | None:
    """Return the network of an address, such as 192.0.2.0/24, or None where the text is no address."""
    try:
        address = ip_address(plain(text).strip())
    except ValueError:
        return None
    return str(ip_network((address.packed, ipv4_bits if address.version == 4 else ipv6_bits), strict=False))


def first_characters(text: str, count: int) -> str:
    """Return the first `count` letters and digits, `*` for each later one, and the separators."""
    out: list[str] = []
    for character in text.strip():
        if character.isalnum():
            out.append(character if count > 0 else "*")
            count -= 1
        else:
            out.append(character)
    return "".join(out)
