"""The platform's own log lines, masked by the policy that LIGHTMILL_LOG_MASKING names."""

from __future__ import annotations

from lightmill.errors import RequestError
from lightmill.masking import Masker, MaskingFilter
from lightmill.telemetry import filter_logs
from lightmill.wiring.platform import Platform


def mask_logs(platform: Platform) -> None:
    """Mask what this process logs from now on, if the settings name a policy; without one, do nothing.

    It reaches the `lightmill` loggers of this process: not Ray's own log files, and not what user code prints.

    Raises:
        NotFoundError: There is no such policy.
        RequestError: None of its rules looks at text without columns, so that it would mask nothing.
        IntegrityError: The policy is not what was added.
    """
    name = platform.settings.log_masking
    if not name:
        return
    policy = platform.policies.get(name).policy
    if not any(not rule.columns and not rule.tags for rule in policy.rules):
        raise RequestError(
            f"LIGHTMILL_LOG_MASKING names {name!r}, whose rules all name columns or tags; a log line has none. Name a "
            "policy that has a rule with detectors alone."
        )
    key = platform.registry.keyring.masking_key(platform.settings.workspace)
    filter_logs(MaskingFilter(Masker(policy, key)))
