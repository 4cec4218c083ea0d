"""Datasets on a node with the sources or the key ring: a first specification, and the page of a profile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from lightmill.cli.operations import operate
from lightmill.cli.output import JsonOption, notes, print_facts, print_json
from lightmill.errors import RequestError


def add_to(datasets: typer.Typer) -> None:
    """Add the commands to the group `datasets`."""
    datasets.command("infer")(infer)
    datasets.command("profile")(profile)


def infer(
    path: Annotated[str, typer.Argument(help="A file, a folder, a pattern or a URI.")],
    name: Annotated[str | None, typer.Option(help="The dataset's name; by default that of the file.")] = None,
    format: Annotated[str | None, typer.Option(help="csv, jsonl, parquet, ... where the name does not tell.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write it; by default to standard output.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Write a first dataset.yaml from a sample of the source, for you to check."""
    if out is not None and out.exists():
        raise RequestError(f"{out} exists already; remove it, or choose another name.")
    place = path if "://" in path else str(Path(path).expanduser().absolute())
    called = name or re.sub(r"[^a-z0-9._-]+", "-", Path(path).name.partition(".")[0].lower()).strip("-._") or "dataset"
    folder = str((out or Path("dataset.yaml")).absolute().parent)
    options = {"path": place, "name": called, "format": format, "folder": folder}
    done = operate("datasets.infer", options, quiet=json_output)
    if out is not None:
        out.write_text(done["text"], encoding="utf-8")
    if json_output:
        print_json(done)
    elif out is None:
        typer.echo(done["text"], nl=False)
    notes.print(
        f"From {done['rows']} rows and {done['columns']} columns"
        + (f"; {done['unreadable']} rows could not be read" if done["unreadable"] else "")
        + ". Check roles, limits and rules; paths are taken from the folder of the file."
    )


def profile(
    reference: Annotated[str, typer.Argument(help="name, name@3, name@latest or name@alias")],
    out: Annotated[Path, typer.Option(help="Where to write the page.")] = Path("profile.html"),
    json_output: JsonOption = False,
) -> None:
    """Write the profile of a dataset version as one HTML page: histograms, missing values, correlations, classes."""
    done = operate("datasets.profile", {"reference": reference, "path": str(out.absolute())}, quiet=json_output)
    if json_output:
        print_json(done)
        return
    print_facts(f"Profile of {done['version']}", {key: done[key] for key in ("path", "rows", "columns")})
