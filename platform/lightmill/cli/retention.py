"""Retention on a node with the key ring: which versions would go and why; nothing is deleted without --apply."""

from __future__ import annotations

from typing import Annotated

import typer

from lightmill.cli.operations import operate
from lightmill.cli.output import JsonOption, notes, print_json, print_table, size_text
from lightmill.errors import RequestError
from lightmill.records.references import AssetKind
from lightmill.records.retention import RetentionPlan


def add_to(group: typer.Typer, kind: AssetKind) -> None:
    """Add the command to the group of a kind."""

    @group.command("retention", help=f"List which versions of a {kind} would go and why; delete them with --apply.")
    def retention(
        name: Annotated[str, typer.Argument(help="Of which the versions are.")],
        keep_last: Annotated[int | None, typer.Option(min=1, help="Keep so many of the newest.")] = None,
        keep_days: Annotated[float | None, typer.Option(min=0, help="Keep those younger than so many days.")] = None,
        keep_tagged: Annotated[bool, typer.Option("--keep-tagged", help="Keep those with a tag or a stage.")] = False,
        even_if_used: Annotated[
            bool, typer.Option("--even-if-used", help="Also those that other versions were made from or evaluated on.")
        ] = False,
        apply: Annotated[bool, typer.Option("--apply", help="Delete them for ever.")] = False,
        json_output: JsonOption = False,
    ) -> None:
        if keep_last is None and keep_days is None:
            raise RequestError("Give --keep-last, --keep-days or both.")
        policy = {
            "keep_last": keep_last,
            "keep_days": keep_days,
            "keep_tagged": keep_tagged,
            "even_if_used": even_if_used,
        }
        options = {"kind": kind.value, "name": name, "policy": policy, "apply": apply}
        done = operate("registry.retention", options, quiet=json_output)
        if json_output:
            print_json(done)
        else:
            _print(RetentionPlan.model_validate(done))


def _print(plan: RetentionPlan) -> None:
    rows = [
        (str(one.version), one.created, size_text(one.size_bytes), "stays" if one.keep else "goes", "; ".join(one.why))
        for one in plan.decisions
    ]
    print_table(f"Versions of {plan.name}", ("version", "created", "size", "", "why"), rows)
    going = sum(not one.keep for one in plan.decisions)
    if plan.applied:
        notes.print(f"{len(plan.deleted)} deleted. Their bytes go with `lightmill registry gc --apply`.")
    elif going:
        notes.print(f"{going} would go. Nothing was deleted; add --apply to delete them for ever.")
    for version, reason in plan.refused.items():
        notes.print(f"{version} stays after all: {reason}")
