"""IP addresses (RFC 791 and 4291) and hardware addresses (IEEE 802)."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from lightmill.masking.detector import PatternDetector

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"


def _is_ipv4(found: str) -> bool:
    address = IPv4Address(found)
    return not (address.is_loopback or address.is_unspecified)


def _is_ipv6(found: str) -> bool:
    try:
        address = IPv6Address(found)
    except AddressValueError:
        return False
    return (
        sum(character not in ":." for character in found) >= 5 and any(map(str.isdecimal, found)) and int(address) > 1
    )


def _ipv6_normal(found: str) -> str:
    return str(IPv6Address(found))


IPV4 = PatternDetector(
    name="ipv4",
    hint=r"\d\.\d{1,3}\.\d{1,3}\.\d",
    patterns=(re.compile(rf"(?<![\w.])(?:{_OCTET}\.){{3}}{_OCTET}(?!\w|\.\d)"),),
    check=_is_ipv4,
    normal_of=str,
)

IPV6 = PatternDetector(
    name="ipv6",
    hint=r"[0-9A-Fa-f]:[0-9A-Fa-f:]*:[0-9A-Fa-f]|[0-9A-Fa-f]::|::[0-9A-Fa-f]",
    patterns=(re.compile(rf"(?<![\w:.])[0-9A-Fa-f:]{{2,39}}(?:(?<=:)(?:{_OCTET}\.){{3}}{_OCTET})?(?![\w:])(?!\.\d)"),),
    check=_is_ipv6,
    normal_of=_ipv6_normal,
)

MAC = PatternDetector(
    name="mac",
    hint=r"[0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}",
    patterns=(
        re.compile(
            r"(?<![0-9A-Za-z:-])[0-9A-F]{2}(?:(?::[0-9A-F]{2}){5}|(?:-[0-9A-F]{2}){5})(?![0-9A-Za-z]|[:-][0-9A-Fa-f])"
            r"|(?<![0-9A-Za-z.])(?=[0-9.]{0,13}[A-F])[0-9A-F]{4}\.[0-9A-F]{4}\.[0-9A-F]{4}(?![0-9A-Za-z]|\.[0-9A-Fa-f])",
            re.IGNORECASE,
        ),
    ),
)
