"""Starts and stops the platform on this machine, as processes; imports neither ray nor the rooms it starts."""

from __future__ import annotations

from lightmill.launch.down import down
from lightmill.launch.operation import run_operation
from lightmill.launch.state import PlatformState, read_state
from lightmill.launch.up import Joined, up

__all__ = ["Joined", "PlatformState", "down", "read_state", "run_operation", "up"]
