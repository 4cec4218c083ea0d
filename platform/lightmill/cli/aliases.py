"""Aliases of datasets and models: move, look back, roll back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from lightmill.cli.output import JsonOption, print_facts, print_json, print_table
from lightmill.records.assets import AssetSummary
from lightmill.records.references import AssetKind
from lightmill.sdk import Client, connect
from lightmill.sdk.assets import Assets

Pick = Callable[[Client], Assets]


def add_to(group: typer.Typer, kind: AssetKind, pick: Pick) -> None:
    """Add the commands."""

    @group.command("alias", help=f"Point an alias of a {kind} at a version.")
    def alias(
        name: str,
        alias: str,
        version: int,
        expect: Annotated[int | None, typer.Option(help="Only if it points at this version now.")] = None,
        json_output: JsonOption = False,
    ) -> None:
        with connect() as client:
            asset = pick(client).set_alias(name, alias, version, expect=expect)
        _print(kind, asset, json_output)

    @group.command("alias-history", help="Show every move of an alias: when, from, to, and whose key signed it.")
    def alias_history(name: str, alias: str, json_output: JsonOption = False) -> None:
        with connect() as client:
            moves = pick(client).alias_history(name, alias)
        if json_output:
            print_json([move.model_dump(mode="json") for move in moves])
            return
        table = [
            (m.n, m.at, f"{name}@{m.source}" if m.source else "", f"{name}@{m.target}", m.publisher) for m in moves
        ]
        print_table(f"Alias {name}@{alias}", ("move", "when", "from", "to", "signed by"), table)

    @group.command("rollback", help="Move an alias back to where it pointed before; doing it again undoes it.")
    def rollback(
        name: str,
        alias: str,
        to: Annotated[int | None, typer.Option(help="A version that it once pointed at.")] = None,
        json_output: JsonOption = False,
    ) -> None:
        with connect() as client:
            asset = pick(client).roll_back(name, alias, to=to)
        _print(kind, asset, json_output)


def text_of(aliases: dict[str, int]) -> str:
    """Return aliases for people."""
    return ", ".join(f"{alias} -> {seq}" for alias, seq in sorted(aliases.items())) or "no aliases"


def _print(kind: AssetKind, asset: AssetSummary, json_output: bool) -> None:
    if json_output:
        print_json(asset.model_dump(mode="json"))
    else:
        print_facts(f"{kind.capitalize()} {asset.name}", {"aliases": text_of(asset.aliases)})
