"""The command `lightmill`: a thin layer over the SDK; arguments, tables and progress bars."""

from __future__ import annotations

from lightmill.cli.main import main

__all__ = ["main"]
