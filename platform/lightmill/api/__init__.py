"""The control plane's HTTP routes: a thin layer over `ControlService`."""

from __future__ import annotations

from lightmill.api.app import build_app

__all__ = ["build_app"]
