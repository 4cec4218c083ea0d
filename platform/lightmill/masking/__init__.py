"""Masking: personal data found and hidden in tables, texts and log lines, as a policy says. No ray, no torch.

Rules of this room:

* Reports, errors and reprs name columns, detectors and counts, never a value.
* The key comes from the caller, and stays in the process.
* The same policy, key and rows give the same masked rows, whatever the blocks.
"""

from __future__ import annotations

from lightmill.masking.logs import MaskingFilter
from lightmill.masking.masker import Masker
from lightmill.masking.registry import DETECTORS, GROUPS

__all__ = ["DETECTORS", "GROUPS", "Masker", "MaskingFilter"]
