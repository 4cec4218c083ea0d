"""How results look: JSON for scripts, tables for people, errors on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lightmill.errors import LightmillError

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]

console = Console()
notes = Console(stderr=True)


def fail(exc: LightmillError, *, as_json: bool) -> int:
    """Print one error and return its exit code."""
    if as_json:
        sys.stdout.write(json.dumps({"error": exc.message, "type": type(exc).__name__}) + "\n")
    else:
        notes.print(f"[bold red]Error:[/] {escape(exc.message)}", highlight=False, soft_wrap=True)
    return exc.exit_code


def print_json(value: object) -> None:
    """Print one JSON document on one line."""
    sys.stdout.write(json.dumps(value) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table, or that there is nothing."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    if table.row_count:
        console.print(table)
    else:
        console.print(f"{title}: none")


def print_facts(title: str, facts: dict[str, Any]) -> None:
    """Print names and values, one a line."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, escape(str(value)))
    console.print(table)


def size_text(size_bytes: int) -> str:
    """Return a size for people: 1.2 MB."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def escape(text: str) -> str:
    """Return text that rich prints as it is."""
    return text.replace("[", "\\[")
