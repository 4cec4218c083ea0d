"""Datasets and models: list, show, alias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from lightmill.cli import exchange
from lightmill.cli.output import JsonOption, print_facts, print_json, print_table, size_text
from lightmill.records.assets import VersionSummary
from lightmill.records.references import AssetKind
from lightmill.sdk import Client, connect
from lightmill.sdk.assets import Assets, VersionDetail

Pick = Callable[[Client], Assets]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    datasets = _group(AssetKind.DATASET, lambda client: client.datasets)
    datasets.command("rows")(rows)
    app.add_typer(datasets, name="datasets")
    models = _group(AssetKind.MODEL, lambda client: client.models)
    exchange.add_to(models)
    app.add_typer(models, name="models")


def _group(kind: AssetKind, pick: Pick) -> typer.Typer:
    group = typer.Typer(help=f"{kind.capitalize()}s: list, show, alias.", no_args_is_help=True)

    @group.command("list", help=f"List the {kind}s.")
    def list_assets(json_output: JsonOption = False) -> None:
        with connect() as client:
            found = pick(client).list()
        if json_output:
            print_json([asset.model_dump(mode="json") for asset in found])
            return
        table = [(a.name, a.versions, f"{a.name}@{a.latest}", _aliases(a.aliases), a.updated) for a in found]
        print_table(f"{kind.capitalize()}s", ("name", "versions", "latest", "aliases", "updated"), table)

    @group.command("show", help=f"Show a {kind} with its versions, or one version with its lineage.")
    def show(
        reference: Annotated[str, typer.Argument(help="name, name@3, name@latest or name@alias")],
        json_output: JsonOption = False,
    ) -> None:
        with connect() as client:
            _show(pick(client), kind, reference, json_output)

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
        if json_output:
            print_json(asset.model_dump(mode="json"))
        else:
            print_facts(f"{kind.capitalize()} {name}", {"aliases": _aliases(asset.aliases)})

    return group


def _show(assets: Assets, kind: AssetKind, reference: str, json_output: bool) -> None:
    name, at, _ = reference.partition("@")
    detail = assets.show(name)
    version = assets.version(reference if at else f"{name}@latest")
    if json_output:
        body = version.model_dump(mode="json")
        print_json(body if at else {**detail.model_dump(mode="json"), "latest": body})
        return
    if not at:
        table = [
            (v.id.seq, v.created, size_text(v.size_bytes), _origin(v), _metric(v), v.id.digest[:12])
            for v in detail.versions
        ]
        columns = ("version", "created", "size", "from", "accuracy", "digest")
        print_table(f"{kind.capitalize()} {name} ({_aliases(detail.asset.aliases)})", columns, table)
    print_facts(f"{kind.capitalize()} {version.version.id}", _lineage(version))


def _lineage(detail: VersionDetail) -> dict[str, object]:
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
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 5,
    offset: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Print rows of a dataset version as JSON, one a line."""
    with connect() as client:
        columns = client.datasets.rows(reference, split, offset=offset, limit=limit)
    for values in zip(*columns.values(), strict=True):
        print_json(dict(zip(columns, values, strict=True)))


def _origin(version: VersionSummary) -> str:
    return str(version.provenance.dataset) if version.provenance.dataset else ""


def _metric(version: VersionSummary) -> str:
    value = version.metrics.get("test_accuracy")
    return "" if value is None else f"{value:.4f}"


def _aliases(aliases: dict[str, int]) -> str:
    return ", ".join(f"{alias} -> {seq}" for alias, seq in sorted(aliases.items())) or "no aliases"
