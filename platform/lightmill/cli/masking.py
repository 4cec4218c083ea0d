"""lightmill masking: policies by name and number, on a node with the key ring. No data leaves the machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lightmill.cli.operations import operate
from lightmill.cli.output import JsonOption, console, escape, notes, print_facts, print_json, print_table
from lightmill.errors import RequestError

ReferenceArgument = Annotated[str, typer.Argument(help="name@2, or name for the newest number.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Masking policies by name and number: add, list, show, check.", no_args_is_help=True)
    for command in (add, show, check):
        group.command(command.__name__)(command)
    group.command("list")(list_policies)
    app.add_typer(group, name="masking")


def add(
    file: Annotated[Path, typer.Argument(help="A YAML file with `name` and `rules`.")], json_output: JsonOption = False
) -> None:
    """Keep a policy under the next number of its name, signed; a number never changes its meaning."""
    made = operate("masking.add", {"path": str(file.absolute())}, quiet=json_output)
    if json_output:
        print_json(made)
        return
    _show(made)
    notes.print(f"Name it in dataset.yaml: masking: {_name(made)}", markup=False)


def list_policies(json_output: JsonOption = False) -> None:
    """List the policies; every signature is verified."""
    found = operate("masking.list", {}, quiet=json_output)
    if json_output:
        print_json(found)
        return
    rows = [
        (_name(one), one["created"][:19], len(one["policy"]["rules"]), ", ".join(_actions(one)))
        for one in found["policies"]
    ]
    print_table("Masking policies", ("policy", "added", "rules", "actions"), rows)


def show(reference: ReferenceArgument, json_output: JsonOption = False) -> None:
    """Show the rules of a policy, in the order in which they decide."""
    found = operate("masking.show", {"reference": reference}, quiet=json_output)
    if json_output:
        print_json(found)
    else:
        _show(found)


def check(
    policy: Annotated[str, typer.Argument(help="name@2, name, or a policy file that ends in .yaml.")],
    text: Annotated[
        str | None, typer.Option(help="A text; - reads standard input, which no process list shows.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A file of rows or lines on this machine.")] = None,
    format: Annotated[str | None, typer.Option(help="csv, jsonl, parquet, ... where the name does not tell.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="column=tag, as dataset.yaml would declare it.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="The most rows to read.")] = 100_000,
    json_output: JsonOption = False,
) -> None:
    """Show what a policy would find and do in a text or a file; counts only, and nothing is written."""
    if text == "-":
        text = sys.stdin.read()
    options = {
        "policy": str(Path(policy).absolute()) if policy.endswith((".yaml", ".yml")) else policy,
        "text": text,
        "path": str(file.absolute()) if file else None,
        "format": format,
        "tags": _tags(tag or []),
        "rows": rows,
    }
    found = operate("masking.check", options, quiet=json_output)
    if json_output:
        print_json(found)
        return
    report = found["report"]
    counts = [
        (count["column"] or "(text)", count["detector"] or "every value", count["action"], count["values"])
        for count in report["counts"]
    ]
    print_table(f"What {report['policy']}@{report['version']} does", ("column", "found", "action", "values"), counts)
    if found["masked"] is not None:
        console.print(escape(found["masked"]), highlight=False, soft_wrap=True)
    _notes(found)


def _notes(found: dict[str, Any]) -> None:
    report = found["report"]
    if found["masked"] is None:
        notes.print(f"{report['rows']} rows{'' if found['whole'] else ', and there are more (--rows)'}")
    if found["dropped"]:
        notes.print(f"Columns that would be dropped: {', '.join(found['dropped'])}", markup=False)
    if found["unreadable"]:
        notes.print(f"{found['unreadable']} rows could not be read")
    for column, epsilon in report["epsilon"].items():
        notes.print(f"Noise in {column}: epsilon {epsilon:g} a row", markup=False)


def _tags(pairs: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in pairs:
        column, equals, tag = pair.partition("=")
        if not (column and equals and tag):
            raise RequestError(f"--tag is column=tag, such as born=date_of_birth; given {pair!r}.")
        found.setdefault(column, []).append(tag)
    return found


def _name(signed: dict[str, Any]) -> str:
    return f"{signed['policy']['name']}@{signed['policy']['version']}"


def _actions(signed: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(rule["action"] for rule in signed["policy"]["rules"]))


def _show(signed: dict[str, Any]) -> None:
    facts = {"policy": _name(signed), "added": signed["created"][:19], "signed by": signed["publisher"]}
    print_facts("Masking policy", facts)
    rows = []
    for number, rule in enumerate(signed["policy"]["rules"], start=1):
        where = [*rule["columns"], *(f"tag {tag}" for tag in rule["tags"])]
        plain = ("columns", "tags", "detectors", "action")
        more = {
            key: value for key, value in rule.items() if key not in plain and value is not None and value is not False
        }
        details = ", ".join(f"{key} {value}" for key, value in more.items())
        found = ", ".join(rule["detectors"]) or "every value"
        rows.append((number, ", ".join(where) or "every text", found, rule["action"], details))
    print_table("Rules; the first that fits decides", ("", "where", "what", "action", "how"), rows)
