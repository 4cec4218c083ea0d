"""Datasets and models: list, show, search, delete, and their aliases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from lightmill.cli import aliases, dataset_versions, exchange, retention, search, versions
from lightmill.cli import datasets as dataset_commands
from lightmill.cli.output import JsonOption, print_facts, print_json, print_table, size_text
from lightmill.records.assets import AssetSummary, VersionDetail, VersionSummary
from lightmill.records.references import AssetKind
from lightmill.records.search import ROWS_MAX
from lightmill.sdk import Client, connect
from lightmill.sdk.assets import Assets

Pick = Callable[[Client], Assets]
AllOption = Annotated[bool, typer.Option("--all", help="Also what was deleted.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    datasets = _group(AssetKind.DATASET, lambda client: client.datasets)
    datasets.command("rows")(rows)
    dataset_commands.add_to(datasets)
    dataset_versions.add_to(datasets)
    models = _group(AssetKind.MODEL, lambda client: client.models)
    versions.add_for_models(models)
    exchange.add_to(models)
    app.add_typer(datasets, name="datasets")
    app.add_typer(models, name="models")


def _group(kind: AssetKind, pick: Pick) -> typer.Typer:
    group = typer.Typer(help=f"{kind.capitalize()}s: list, show, search, alias, tag, delete.", no_args_is_help=True)

    @group.command("list", help=f"List the {kind}s.")
    def list_assets(everything: AllOption = False, json_output: JsonOption = False) -> None:
        with connect() as client:
            found = pick(client).list(deleted=everything)
        if json_output:
            print_json([asset.model_dump(mode="json") for asset in found])
            return
        table = [(a.name, a.versions, _latest(a), aliases.text_of(a.aliases), a.updated) for a in found]
        print_table(f"{kind.capitalize()}s", ("name", "versions", "latest", "aliases", "updated"), table)

    @group.command("show", help=f"Show a {kind} with its versions, or one version with its lineage.")
    def show(
        reference: Annotated[str, typer.Argument(help="name, name@3, name@latest or name@alias")],
        everything: AllOption = False,
        json_output: JsonOption = False,
    ) -> None:
        with connect() as client:
            _show(pick(client), kind, reference, everything, json_output)

    aliases.add_to(group, kind, pick)
    versions.add_to(group, kind, pick)
    search.add_to(group, kind, pick)
    retention.add_to(group, kind)
    return group


def _latest(asset: AssetSummary) -> str:
    return f"{asset.name}@{asset.latest}" if asset.latest else "deleted"


def _show(assets: Assets, kind: AssetKind, reference: str, everything: bool, json_output: bool) -> None:
    name, at, _ = reference.partition("@")
    detail = assets.show(name, deleted=everything)
    left = at or detail.asset.latest
    version = assets.version(reference if at else f"{name}@latest") if left else None
    if json_output:
        body = version.model_dump(mode="json") if version else None
        print_json(body if at else {**detail.model_dump(mode="json"), "latest": body})
        return
    if not at:
        table = [_row(version) for version in detail.versions]
        columns = ("version", "created", "size", "from", "accuracy", "stage", "tags", "digest")
        print_table(f"{kind.capitalize()} {name} ({aliases.text_of(detail.asset.aliases)})", columns, table)
    if version:
        print_facts(f"{kind.capitalize()} {version.version.id}", _facts(version))


def _row(version: VersionSummary) -> tuple[object, ...]:
    stage = f"deleted: {version.deleted.reason}" if version.deleted else versions.stage_text(version.stage)
    return (
        version.id.seq,
        version.created,
        size_text(version.size_bytes),
        str(version.provenance.dataset or ""),
        versions.metric_text(version, "test_accuracy"),
        stage,
        versions.tags_text(version.tags),
        version.id.digest[:12],
    )


def _facts(detail: VersionDetail) -> dict[str, object]:
    version = detail.version
    origin = version.provenance
    facts: dict[str, object] = {
        "digest": version.id.digest,
        "created": version.created,
        "dataset": f"{origin.dataset} ({origin.dataset.digest})" if origin.dataset else "",
        "run": origin.run or "",
        "job": origin.job or "",
        "code": f"{origin.code.commit}{' (with changes)' if origin.code.dirty else ''}",
        "packages": ", ".join(f"{name} {number}" for name, number in origin.packages.items()),
        "metrics": ", ".join(f"{name} {value:.4g}" for name, value in version.metrics.items()),
        "stage": versions.stage_text(detail.notes.stage),
        "tags": versions.tags_text(detail.notes.tags),
        "evaluations": "; ".join(versions.evaluation_text(found) for found in detail.notes.evaluations),
        "description": detail.notes.text.description,
        "intended use": detail.notes.text.intended_use,
        "limitations": detail.notes.text.limitations,
        "endpoints": ", ".join(detail.endpoints),
        "led to": ", ".join(detail.derived),
        "rows": _rows_of(version),
    }
    return {name: value for name, value in facts.items() if value}


def _rows_of(version: VersionSummary) -> str:
    profile = version.card.get("profile")
    if not isinstance(profile, dict):
        return ""
    dropped = ", ".join(f"{count} {reason}" for reason, count in profile["dropped"].items()) or "none"
    splits = ", ".join(f"{name} {count}" for name, count in profile["splits"].items())
    return f"{profile['rows_kept']} of {profile['rows_in']} kept (dropped: {dropped}); {splits}"


def rows(
    reference: str,
    split: Annotated[str, typer.Option(help="train, validation or test")] = "test",
    limit: Annotated[int, typer.Option(min=1, max=ROWS_MAX)] = 5,
    offset: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Print rows of a dataset version as JSON, one a line."""
    with connect() as client:
        columns = client.datasets.rows(reference, split, offset=offset, limit=limit)
    for values in zip(*columns.values(), strict=True):
        print_json(dict(zip(columns, values, strict=True)))
