"""The care of the store: check, gc, repair, rebuild, backup, restore. The platform may be up or down.

Exit code 6 says that something is missing, damaged or lost; the report is printed all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from lightmill.cli.operations import operate
from lightmill.cli.output import JsonOption, notes, print_facts, print_json, print_table, size_text
from lightmill.errors import IntegrityError
from lightmill.records.care import (
    BackupReport,
    CheckReport,
    CollectReport,
    Finding,
    Problem,
    RebuildReport,
    RepairReport,
    RestoreReport,
)

SHOWN = 50


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="The store: check, gc, repair, rebuild, backup, restore.", no_args_is_help=True)
    group.command("check")(check)
    group.command("gc")(gc)
    group.command("repair")(repair)
    group.command("rebuild")(rebuild)
    group.command("backup")(backup)
    group.command("restore")(restore)
    app.add_typer(group, name="registry")


def check(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also open every version and verify every segment; needs the key ring.")
    ] = False,
    sample: Annotated[float, typer.Option(help="Percentage of the objects to read.", min=0, max=100)] = 100,
    seed: Annotated[int, typer.Option(help="Chooses the sample.")] = 0,
    json_output: JsonOption = False,
) -> None:
    """Find what is missing, damaged or left over on the store."""
    options: dict[str, object] = {"deep": deep, "sample": sample, "seed": seed}
    body = operate("registry.check", options, quiet=json_output)
    report = CheckReport.model_validate(body)
    if json_output:
        print_json(body)
    else:
        _print_check(report)
    _end(report.harmful)


def gc(
    apply: Annotated[
        bool, typer.Option("--apply/--dry-run", help="Remove what is due; otherwise only say what would be done.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Remove what no version needs: after 24 hours, seen in two cycles, with 7 days in quarantine."""
    body = operate("registry.gc", {"apply": apply}, quiet=json_output)
    if json_output:
        print_json(body)
        return
    report = CollectReport.model_validate(body)
    facts = {
        "needed": f"{report.live} objects",
        "unneeded": f"{report.garbage} objects: {report.young} young, {report.leased} leased, {report.waiting} waiting "
        "for another cycle",
        "removed": f"{len(report.removed)} objects, {size_text(report.removed_bytes)}",
        "put back": f"{len(report.restored)} objects",
        "in quarantine": f"{report.quarantined} objects",
        "gone for good": f"{len(report.purged)} objects",
        "expired leases": len(report.expired),
    }
    print_facts(f"Collection {report.mark}" if apply else "Collection (dry run; --apply does it)", facts)


def repair(
    sources: Annotated[
        list[str] | None, typer.Option("--from", help="URL of a replica or backup; may be given several times.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Put back what quarantine, replicas or backups still hold, and heal the catalog."""
    body = operate("registry.repair", {"sources": sources or []}, quiet=json_output)
    report = RepairReport.model_validate(body)
    if json_output:
        print_json(body)
    else:
        print_table("Put back", ("object", "from"), [(r.object, r.source) for r in report.repaired])
        _print_findings("Lost", report.lost)
        rows = f"{report.healed} rows added" if report.catalog else "did not answer; heal it later"
        print_facts("Repair", {"put back": len(report.repaired), "lost": len(report.lost), "catalog": rows})
    _end(report.lost)


def rebuild(json_output: JsonOption = False) -> None:
    """Fill an empty catalog with the versions and aliases of the store."""
    body = operate("registry.rebuild", {}, quiet=json_output)
    report = RebuildReport.model_validate(body)
    if json_output:
        print_json(body)
    else:
        print_facts("Catalog", _rebuilt(report))
    _end(report.unreadable)


def backup(
    target: Annotated[str, typer.Argument(help="Path or URL of the copy.")],
    verify_all: Annotated[
        bool, typer.Option("--verify-all", help="Read the whole copy, not only what is new.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Copy the store to another one: only what is new, read back, while publishing goes on."""
    body = operate("registry.backup", {"target": target, "verify_all": verify_all}, quiet=json_output)
    report = BackupReport.model_validate(body)
    if json_output:
        print_json(body)
    else:
        _print_findings("Not whole in the copy", report.findings)
        print_facts(f"Backup at {report.target}", _copied(report))
    _end(report.findings)


def restore(
    source: Annotated[str, typer.Argument(help="Path or URL of the backup.")],
    json_output: JsonOption = False,
) -> None:
    """Bring an empty site back from a backup; the key ring must be in its place."""
    body = operate("registry.restore", {"source": source}, quiet=json_output)
    report = RestoreReport.model_validate(body)
    if json_output:
        print_json(body)
    else:
        print_facts(f"Restored from {report.copy_report.source}", _copied(report.copy_report))
        print_facts("Catalog", _rebuilt(report.rebuilt))
        _print_check(report.check)
    _end([*report.copy_report.findings, *report.rebuilt.unreadable, *report.check.harmful])


def _print_check(report: CheckReport) -> None:
    _print_findings("Findings", [finding for finding in report.findings if finding.problem is not Problem.ORPHANED])
    orphans = sum(finding.problem is Problem.ORPHANED for finding in report.findings)
    read = f"{report.objects_read} of {report.objects} objects, {size_text(report.bytes_read)}"
    facts = {
        "level": "keyed (versions opened, segments verified)" if report.deep else "keyless",
        "versions": f"{report.versions} of {report.assets} assets ({report.deleted} deleted)",
        "aliases": report.aliases,
        "read": read if report.sample >= 100 else f"{read} (a sample of {report.sample:g} %, seed {report.seed})",
        "segments": report.segments,
        "catalog": "did not answer; marks were not compared" if report.marks is None else f"{report.marks} marks match",
        "left over": f"{orphans} orphaned objects, {report.leases} leases, {report.quarantined} in quarantine",
        "result": f"{len(report.harmful)} objects missing or damaged" if report.harmful else "whole",
    }
    if report.marks and any("the catalog has seen" in finding.detail for finding in report.harmful):
        facts["catalog"] = "the store is not what the catalog has seen"
    print_facts(f"Store {report.store}", facts)


def _print_findings(title: str, findings: Sequence[Finding]) -> None:
    rows = [(f.problem, f.object, ", ".join(f.versions), f.detail) for f in findings]
    if rows:
        print_table(title, ("problem", "object", "versions", "detail"), rows[:SHOWN])
    if len(rows) > SHOWN:
        notes.print(f"... and {len(rows) - SHOWN} more; --json prints all", highlight=False)


def _copied(report: BackupReport) -> dict[str, Any]:
    return {
        "versions": f"{report.versions} ({report.deleted} deleted ones without content)",
        "copied": f"{report.copied} objects, {size_text(report.copied_bytes)}",
        "there already": f"{report.present} objects",
        "read and verified": f"{report.verified} objects",
        "written again": f"{report.replaced} objects that were damaged in the copy",
        "not whole": f"{len(report.findings)} objects",
    }


def _rebuilt(report: RebuildReport) -> dict[str, Any]:
    return {
        "assets": report.assets,
        "versions": report.versions,
        "aliases": report.aliases,
        "unreadable": ", ".join(report.unreadable) or "none",
    }


def _end(harmful: Sequence[object]) -> None:
    """End with the exit code of an integrity error when something is not whole."""
    if harmful:
        raise typer.Exit(IntegrityError.exit_code)
