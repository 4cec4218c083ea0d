"""The detectors by name, strongest first: of equal spans of one text the earlier one names the find."""

from __future__ import annotations

from collections.abc import Mapping

from lightmill.errors import RequestError
from lightmill.masking.contacts import EMAIL, PHONE
from lightmill.masking.credentials import API_KEY, URL_CREDENTIALS
from lightmill.masking.detector import Detector
from lightmill.masking.financial import CARD, IBAN
from lightmill.masking.names import NameDetector
from lightmill.masking.national_ids import NATIONAL_IDS
from lightmill.masking.network import IPV4, IPV6, MAC

_PATTERNS: tuple[Detector, ...] = (
    API_KEY,
    URL_CREDENTIALS,
    EMAIL,
    IBAN,
    *NATIONAL_IDS,
    CARD,
    IPV6,
    MAC,
    IPV4,
    PHONE,
)
DETECTORS: dict[str, Detector] = {detector.name: detector for detector in (*_PATTERNS, NameDetector())}
GROUPS: dict[str, tuple[str, ...]] = {
    "all": tuple(detector.name for detector in _PATTERNS),
    "national_id": tuple(detector.name for detector in NATIONAL_IDS),
    "ip": ("ipv4", "ipv6"),
}
"""Names that stand for several detectors. `all` leaves out person_name, which needs an extra and a model."""


def detectors_named(names: tuple[str, ...], known: Mapping[str, Detector], where: str) -> tuple[Detector, ...]:
    """Return those of the known detectors that names and groups stand for, in their order.

    Raises:
        RequestError: There is no such detector or group; the message lists them.
    """
    wanted: set[str] = set()
    for name in names:
        if name not in known and name not in GROUPS:
            raise RequestError(
                f"{where}: {name!r} is no detector (use {', '.join(known)}, or a group: {', '.join(GROUPS)})."
            )
        wanted.update(GROUPS.get(name, (name,)))
    return tuple(detector for name, detector in known.items() if name in wanted)
