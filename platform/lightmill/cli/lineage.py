"""Where a version comes from, and what came of it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.tree import Tree

from lightmill.cli.output import JsonOption, console, escape, print_json
from lightmill.records.assets import Lineage
from lightmill.records.references import AssetKind
from lightmill.sdk import connect


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("lineage")(lineage)


def lineage(
    reference: Annotated[str, typer.Argument(help="name, name@3, name@latest or name@alias")],
    dataset: Annotated[bool, typer.Option("--dataset", help="A dataset's; without it, a model's.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Show the lineage of a model or dataset version: back to sources, run and code; on to endpoints and children."""
    kind = AssetKind.DATASET if dataset else AssetKind.MODEL
    with connect() as client:
        found = (client.datasets if dataset else client.models).lineage(reference)
    if json_output:
        print_json(found.model_dump(mode="json"))
    else:
        console.print(tree_of(kind, found), soft_wrap=True, highlight=False)


def tree_of(kind: AssetKind, found: Lineage) -> Tree:
    """Return the lineage for people."""
    version, origin = found.version, found.version.provenance
    tree = Tree(f"[bold]{kind.capitalize()} {escape(str(version.id))}[/]  {version.id.digest}")
    back = tree.add("from")
    sources = back
    if origin.dataset:
        gone = "" if found.dataset else " (not in the catalog)"
        gone = " (deleted)" if found.dataset and found.dataset.deleted else gone
        sources = back.add(f"dataset {escape(str(origin.dataset))}{gone}  {origin.dataset.digest}")
    for source in found.sources:
        sources.add(f"source {escape(source.name)}  sha256 {source.sha256}")
    if origin.base:
        back.add(f"base model {escape(str(origin.base))}  {origin.base.digest}")
    for what, value in (("run", origin.run), ("job", origin.job)):
        if value:
            back.add(f"{what} {escape(value)}")
    if origin.code.commit:
        back.add(f"code {origin.code.commit}{' (with changes)' if origin.code.dirty else ''}")
    if origin.packages:
        back.add("packages " + escape(", ".join(f"{name} {number}" for name, number in origin.packages.items())))
    forward = tree.add("led to")
    for endpoint in found.endpoints:
        forward.add(f"endpoint {escape(endpoint)}")
    for child in found.children:
        branch = forward.add(f"{child.id.kind} {escape(str(child.id))}  {child.id.digest}")
        for endpoint in child.endpoints:
            branch.add(f"endpoint {escape(endpoint)}")
    if not found.endpoints and not found.children:
        forward.add("nothing yet")
    return tree
