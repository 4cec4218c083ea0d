"""Searching versions of datasets and models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from lightmill.cli.output import JsonOption, notes, print_json, print_table
from lightmill.cli.versions import stage_text, tags_text
from lightmill.records.assets import VersionSummary
from lightmill.records.references import AssetKind
from lightmill.records.search import PAGE_MAX, SearchPage, parse_order, parse_query
from lightmill.sdk import Client, connect
from lightmill.sdk.assets import Assets

Pick = Callable[[Client], Assets]


def add_to(group: typer.Typer, kind: AssetKind, pick: Pick) -> None:
    """Add the command."""

    @group.command("search", help=f"Find {kind} versions; all terms must hold.")
    def search(
        query: Annotated[
            str,
            typer.Argument(
                help="Such as 'digits metrics.test_accuracy>=0.96 tag:team=vision stage:production dataset:digits@1 "
                "alias:champion created>=2026-01-31'."
            ),
        ] = "",
        sort: Annotated[
            str, typer.Option(help="created, name, size or metrics.<name>; - in front turns.")
        ] = "-created",
        limit: Annotated[int, typer.Option(min=1, max=PAGE_MAX)] = 50,
        after: Annotated[str, typer.Option(help="The `next` of the page before.")] = "",
        json_output: JsonOption = False,
    ) -> None:
        parse_order(sort)
        asked = parse_query(query)
        with connect() as client:
            page = pick(client).search(query, sort=sort, limit=limit, after=after)
        if json_output:
            print_json(page.model_dump(mode="json"))
            return
        metrics = list(dict.fromkeys(condition.metric for condition in asked.metrics))
        _print(kind, page, metrics or ["test_accuracy"])


def _print(kind: AssetKind, page: SearchPage, metrics: list[str]) -> None:
    columns = ("version", "created", *metrics, "stage", "tags", "from")
    print_table(f"{kind.capitalize()} versions", columns, [_row(version, metrics) for version in page.versions])
    if page.next:
        notes.print(f"There are more: --after {page.next}", highlight=False, soft_wrap=True)


def _row(version: VersionSummary, metrics: list[str]) -> tuple[object, ...]:
    measured = [version.metrics.get(name) for name in metrics]
    return (
        version.id,
        version.created,
        *("" if value is None else f"{value:.4g}" for value in measured),
        stage_text(version.stage),
        tags_text(version.tags),
        version.provenance.dataset or "",
    )
