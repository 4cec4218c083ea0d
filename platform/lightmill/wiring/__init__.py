"""Constructs adapters from `Settings`, for entry points; nothing else does."""

from __future__ import annotations

from lightmill.wiring.bootstrap import bootstrap
from lightmill.wiring.platform import Platform, open_platform

__all__ = ["Platform", "bootstrap", "open_platform"]
