"""What is said of versions: tags, text, stages, cards; and deleting them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lightmill.cli import curves
from lightmill.cli.output import JsonOption, print_facts, print_json
from lightmill.errors import NotFoundError, RequestError
from lightmill.records.annotations import Evaluation, Stage
from lightmill.records.assets import VersionDetail, VersionSummary
from lightmill.records.references import AssetKind, parse_reference
from lightmill.sdk import Client, connect
from lightmill.sdk.assets import Assets

Pick = Callable[[Client], Assets]
Text = Annotated[str | None, typer.Option(help="Markdown, or @FILE for what a file holds.")]
ReferenceArgument = Annotated[str, typer.Argument(help="name, name@3, name@latest or name@alias")]


def add_to(group: typer.Typer, kind: AssetKind, pick: Pick) -> None:
    """Add the commands of both kinds."""

    @group.command("tag", help=f"Set tags of a {kind} version with key=value, or remove some.")
    def tag(
        reference: ReferenceArgument,
        tags: Annotated[list[str] | None, typer.Argument(help="key=value ...")] = None,
        remove: Annotated[list[str] | None, typer.Option(help="A tag to remove; may be repeated.")] = None,
        json_output: JsonOption = False,
    ) -> None:
        given = _pairs(tags or [])
        with connect() as client:
            detail = pick(client).tag(reference, given, remove or [])
        _print(kind, detail, json_output)

    @group.command("describe", help=f"Say what a {kind} version is, what it is for and what it is not.")
    def describe(
        reference: ReferenceArgument,
        description: Text = None,
        intended_use: Text = None,
        limitations: Text = None,
        json_output: JsonOption = False,
    ) -> None:
        said = {"description": description, "intended_use": intended_use, "limitations": limitations}
        texts = {name: _text(value) for name, value in said.items()}
        with connect() as client:
            detail = pick(client).describe(reference, **texts)
        _print(kind, detail, json_output)

    @group.command("delete", help=f"Delete a {kind} version for ever; refused while an alias or endpoint uses it.")
    def delete(
        reference: Annotated[str, typer.Argument(help="name@3")],
        reason: Annotated[str, typer.Option(help="Why; it is signed, kept, and readable on the store.")],
        json_output: JsonOption = False,
    ) -> None:
        parsed = parse_reference(reference)
        if parsed.seq is None:
            raise RequestError(f"Name the version to delete by its number, such as {parsed.name}@1, not {reference!r}.")
        with connect() as client:
            version = pick(client).delete(parsed.name, parsed.seq, reason)
        if json_output:
            print_json(version.model_dump(mode="json"))
        else:
            print_facts(f"{kind.capitalize()} {version.id}", {"deleted": version.deleted.at if version.deleted else ""})


def add_for_models(group: typer.Typer) -> None:
    """Add the commands of models alone."""
    group.command("promote")(promote)
    group.command("card")(card)
    group.command("metrics")(curves.of_version)


def promote(
    reference: ReferenceArgument,
    stage: Annotated[Stage, typer.Option(help="Where to.")],
    require: Annotated[
        list[str] | None, typer.Option(help="What an evaluation must show, such as 'test_accuracy>=0.9'.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Move a model version to a stage; production needs an evaluation on rows that were held out."""
    with connect() as client:
        detail = client.models.promote(reference, stage, required=require or [])
    _print(AssetKind.MODEL, detail, json_output)


def card(reference: ReferenceArgument) -> None:
    """Print the model card of a version as Markdown."""
    with connect() as client:
        sys.stdout.write(client.models.card(reference))


def stage_text(stage: Stage) -> str:
    """Return a stage for people; nothing for none."""
    return "" if stage is Stage.NONE else stage.value


def tags_text(tags: dict[str, str]) -> str:
    """Return tags for people."""
    return ", ".join(f"{key}={value}" for key, value in tags.items())


def metric_text(version: VersionSummary, name: str) -> str:
    """Return a metric for people; nothing when it was not measured."""
    value = version.metrics.get(name)
    return "" if value is None else f"{value:.4f}"


def evaluation_text(evaluation: Evaluation) -> str:
    """Return an evaluation for people."""
    measured = ", ".join(f"{name} {value:.4g}" for name, value in evaluation.metrics.items())
    return f"{evaluation.dataset} {evaluation.split}: {measured} ({evaluation.by})"


def _print(kind: AssetKind, detail: VersionDetail, json_output: bool) -> None:
    if json_output:
        print_json(detail.model_dump(mode="json"))
        return
    notes = detail.notes
    facts = {"stage": notes.stage.value, "tags": tags_text(notes.tags), **notes.text.model_dump()}
    facts["evaluations"] = "; ".join(evaluation_text(found) for found in notes.evaluations)
    shown = {name.replace("_", " "): value for name, value in facts.items() if value}
    print_facts(f"{kind.capitalize()} {detail.version.id}", shown)


def _pairs(tags: list[str]) -> dict[str, str]:
    wrong = next((tag for tag in tags if "=" not in tag), None)
    if wrong is not None:
        raise RequestError(f"{wrong!r} is no tag; write key=value, or --remove {wrong} to remove it.")
    return dict(tag.split("=", 1) for tag in tags)


def _text(value: str | None) -> str | None:
    if value is None or not value.startswith("@"):
        return value
    path = Path(value[1:])
    if not path.is_file():
        raise NotFoundError(f"No file at {path}; write the text itself, or @ and the path of a file that holds it.")
    return path.read_text(encoding="utf-8")
