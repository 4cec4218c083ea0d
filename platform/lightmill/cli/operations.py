"""An operation of this node in the terminal: a progress bar while it runs."""

from __future__ import annotations

from typing import Any

from lightmill.cli.following import progress_bar
from lightmill.launch import run_operation
from lightmill.records.jobs import Progress
from lightmill.settings import Settings


def operate(name: str, options: dict[str, object], *, quiet: bool) -> dict[str, Any]:
    """Run an operation and return its result; without `quiet`, with a bar on standard error."""
    settings = Settings.read()
    if quiet:
        return run_operation(settings, name, options, lambda _: None)
    with progress_bar() as bar:
        task = bar.add_task(name, total=None, detail="")

        def show(now: Progress) -> None:
            bar.update(task, completed=now.done, total=now.total or None, detail=f"{now.phase} ({now.unit})")

        return run_operation(settings, name, options, show)
