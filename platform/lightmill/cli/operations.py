"""An operation of this node in the terminal: a progress bar while it runs."""

from __future__ import annotations

from typing import Any

from lightmill.cli.output import notes
from lightmill.launch import run_operation
from lightmill.records.jobs import Progress
from lightmill.sdk import progress_bars
from lightmill.settings import Settings


def operate(name: str, options: dict[str, object], *, quiet: bool) -> dict[str, Any]:
    """Run an operation and return its result; without `quiet`, with a bar on standard error."""
    settings = Settings.read()
    if quiet:
        return run_operation(settings, name, options, lambda _: None)
    with progress_bars(notes) as bar:
        task = bar.add_task(name, total=None, count="", detail="")

        def show(now: Progress) -> None:
            of = f"/{now.total:,}" if now.total else ""
            count = f"{now.done:,}{of} {now.unit}" if now.done or now.total else ""
            bar.update(task, completed=now.done, total=now.total or None, count=count, detail=now.phase)

        return run_operation(settings, name, options, show)
