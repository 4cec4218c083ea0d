"""Versions of datasets on a node with the key ring: how two differ, where a row comes from, and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lightmill.cli.operations import operate
from lightmill.cli.output import JsonOption, notes, print_facts, print_json, print_table, size_text
from lightmill.errors import RequestError
from lightmill.records.dataset_versions import ColumnShift, DatasetDiff, RowTrace

ReferenceArgument = Annotated[str, typer.Argument(help="name, name@3, name@latest or name@alias")]
VALUE_SHOWN = 100


def add_to(datasets: typer.Typer) -> None:
    """Add the commands to the group `datasets`."""
    datasets.command("diff")(diff)
    datasets.command("row")(row)
    datasets.command("export")(export)
    datasets.command("croissant")(croissant)
    datasets.command("card")(card)


def diff(
    old: ReferenceArgument,
    new: ReferenceArgument,
    limit: Annotated[int, typer.Option(min=1, help="The most lines of each table.")] = 20,
    json_output: JsonOption = False,
) -> None:
    """Compare two dataset versions: schema, counts, distributions, sources, preparation. Reads no row."""
    done = operate("datasets.diff", {"old": old, "new": new}, quiet=json_output)
    if json_output:
        print_json(done)
        return
    found = DatasetDiff.model_validate(done)
    tables: tuple[tuple[str, tuple[str, ...], list[tuple[Any, ...]]], ...] = (
        ("Columns", ("column", "what", "before", "after"), [_change(change) for change in found.columns]),
        (
            "Distributions, the largest changes first",
            ("column", "distance", "PSI (by chance)", "missing", "mean", "compared"),
            [_shift(shift) for shift in found.shifts if shift.size or shift.mean_shift],
        ),
        (
            "Rows, the largest changes first",
            ("what", "name", "before", "after", "change"),
            [(c.group, c.name, c.old, c.new, f"{c.new - c.old:+d}") for c in found.counts],
        ),
        (
            "Sources",
            ("file", "change", "SHA-256 before", "SHA-256 after"),
            [(c.name, c.change, *(one.sha256[:16] if one else "" for one in (c.old, c.new))) for c in found.sources],
        ),
        ("Preparation", ("part", "what", "before", "after"), [_change(change) for change in found.preparation]),
    )
    notes.print(f"[bold]{found.old} and {found.new}[/]")
    for title, columns, rows in tables:
        print_table(title, columns, rows[:limit])
        if len(rows) > limit:
            notes.print(f"... and {len(rows) - limit} more; see --limit or --json.")
    if found.shifts:
        notes.print(
            "distance: Jensen-Shannon, 0 to 1; PSI: population stability index, with what chance alone gives beside it."
        )
    for said in found.notes:
        notes.print(said)


def _change(change: Any) -> tuple[str, ...]:
    shown = [value if value is not None else "-" for value in (change.old, change.new)]
    return (change.what, change.field, *shown)


def _shift(shift: ColumnShift) -> tuple[str, ...]:
    distance = "" if shift.js is None else f"{shift.js:.3f}"
    psi = "" if shift.psi is None or shift.by_chance is None else f"{shift.psi:.3f} ({shift.by_chance:.3f})"
    missing = f"{shift.old_missing:.1%} to {shift.new_missing:.1%}"
    mean = "" if shift.old_mean is None or shift.new_mean is None else f"{shift.old_mean:.4g} to {shift.new_mean:.4g}"
    mean += "" if shift.mean_shift is None else f" ({shift.mean_shift:+.2f} std)"
    return (shift.name, distance, psi, missing, mean, shift.method)


def row(
    reference: ReferenceArgument,
    row_id: Annotated[int | None, typer.Argument(help="The row's id, as in the column row_id.")] = None,
    split: Annotated[str | None, typer.Option(help="train, validation, test or quarantine")] = None,
    position: Annotated[int | None, typer.Option(min=0, help="The row's place in the split, from 0.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Show where a row of a dataset version comes from, and its values as they are stored."""
    if (row_id is None) == (split is None or position is None):
        raise RequestError("Give the row's id, or --split and --position.")
    options = {"reference": reference, "row_id": row_id, "split": split, "position": position}
    done = operate("datasets.row", options, quiet=json_output)
    if json_output:
        print_json(done)
        return
    found = RowTrace.model_validate(done)
    facts: dict[str, object] = {
        "split": f"{found.group}, position {found.position}",
        "source": found.source.name if found.source else "",
        "place": found.place,
        "row there": found.source_row or "",
        "SHA-256 of the source": found.source.sha256 if found.source else "",
        "kept aside because": found.reason,
        "note": found.note,
        **{f"value of {name}": _short(value) for name, value in found.values.items()},
    }
    print_facts(f"Row {found.row_id} of {found.version}", {name: value for name, value in facts.items() if value != ""})


def export(
    reference: ReferenceArgument,
    out: Annotated[Path, typer.Option(help="A new or empty folder.")],
    columns: Annotated[str | None, typer.Option(help="Which columns, with commas between; by default all.")] = None,
    splits: Annotated[str | None, typer.Option(help="Which splits, with commas between; by default all.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the export that is there.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Write a version as plain Parquet, with Croissant metadata and a card. The files are not encrypted."""
    options = {
        "reference": reference,
        "folder": str(out.absolute()),
        "columns": _names(columns),
        "splits": _names(splits),
        "force": force,
    }
    done = operate("datasets.export", options, quiet=json_output)
    if json_output:
        print_json(done)
        return
    table = [(file["path"], size_text(file["size_bytes"]), file["sha256"][:16]) for file in done["files"]]
    print_table(f"Export of {reference} in {done['folder']}", ("file", "size", "SHA-256"), table)
    notes.print(f"{done['rows']} rows. [bold]{done['warning']}[/]")


def croissant(reference: ReferenceArgument) -> None:
    """Print a version's Croissant 1.1 metadata; its digests are of the encrypted files on the store."""
    typer.echo(operate("datasets.croissant", {"reference": reference}, quiet=True)["text"], nl=False)


def card(reference: ReferenceArgument) -> None:
    """Print the card of a dataset version: YAML in front, then Markdown."""
    typer.echo(operate("datasets.card", {"reference": reference}, quiet=True)["text"], nl=False)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_SHOWN else f"{text[:VALUE_SHOWN]} ..."
