"""Models in and out: import, export, verify. They work with the platform down, on a node with the key ring."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from lightmill.cli.operations import operate
from lightmill.cli.output import JsonOption, notes, print_facts, print_json, print_table, size_text
from lightmill.errors import RequestError

FORMATS = ("huggingface", "safetensors", "onnx")


def add_to(models: typer.Typer) -> None:
    """Add the commands to the group `models`."""
    models.command("import")(import_model)
    models.command("export")(export_model)
    models.command("verify")(verify_model)


def import_model(
    path: Annotated[Path, typer.Argument(help="A Hugging Face folder, or a .safetensors or .gguf file.")],
    name: Annotated[str, typer.Option("--name", help="The model's name; a new version of it if it exists.")],
    alias: Annotated[str | None, typer.Option(help="An alias to move to the new version.")] = None,
    card: Annotated[Path | None, typer.Option(help="A model card (YAML or JSON), where the source has none.")] = None,
    convert_pickle: Annotated[
        bool, typer.Option("--convert-pickle", help="Convert weights in a pickle, in a locked-down process.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Import a model from files as a new, encrypted version."""
    options = {
        "path": str(path.absolute()),
        "name": name,
        "alias": alias,
        "card": str(card.absolute()) if card else None,
        "convert_pickle": convert_pickle,
    }
    done = operate("models.import", options, quiet=json_output)
    if json_output:
        print_json(done)
        return
    version = done["version"]
    model = version["card"].get("architecture") or {}
    facts = {
        "format": done["format"],
        "architecture": " ".join(str(part) for part in (model.get("name"), model.get("arguments")) if part),
        "tensors": done["tensors"],
        "size": size_text(version["size_bytes"]),
        "digest": version["id"]["digest"],
        "alias": alias or "",
        "left out": ", ".join(done["left_out"]),
        "note": " ".join(done["notes"]),
    }
    title = f"Model {version['id']['name']}@{version['id']['seq']}"
    print_facts(title, {key: value for key, value in facts.items() if value != ""})


def export_model(
    reference: Annotated[str, typer.Argument(help="name, name@3, name@latest or name@alias")],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    format: Annotated[str, typer.Option("--format", help=", ".join(FORMATS))] = FORMATS[0],
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Without model.sig.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Write a version as plain files, signed and with a bill of materials. The files are not encrypted."""
    if format not in FORMATS:
        raise RequestError(f"--format {format} is unknown; choose one of {', '.join(FORMATS)}.")
    options = {"reference": reference, "folder": str(folder.absolute()), "format": format, "sign": not unsigned}
    done = operate("models.export", options, quiet=json_output)
    if json_output:
        print_json(done)
        return
    table = [(file["path"], size_text(file["size_bytes"]), file["sha256"][:16]) for file in done["files"]]
    print_table(f"Export of {reference} in {done['folder']}", ("file", "size", "SHA-256"), table)
    if done["difference"] is not None:
        notes.print(f"onnxruntime and torch agree: the largest difference was {done['difference']:.1e}.")
    if done["key_fingerprint"]:
        notes.print(f"Signed by the key {done['key_fingerprint'][:32]}.")
    notes.print(f"[bold]{done['warning']}[/]")


def verify_model(
    target: Annotated[str, typer.Argument(help="A version such as name@3, or an exported folder such as ./name.")],
    sample: Annotated[str | None, typer.Option(help="Read only this share of it, such as 10%.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides what the sample takes; random without.")] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="Who signed the folder (PEM); without it, this deployment's own key.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Read every byte of a version again, or compare an exported folder with its signature."""
    options: dict[str, object]
    if "/" in target:
        options = {
            "folder": str(Path(target).absolute()),
            "public_key": str(public_key.absolute()) if public_key else None,
        }
    else:
        chosen = secrets.randbelow(1 << 31) if seed is None else seed
        options = {"reference": target, "sample_percent": _percent(sample), "seed": chosen}
    done = operate("models.verify", options, quiet=json_output)
    if json_output:
        print_json(done)
    elif done["folder"]:
        found = done["folder"]
        names = {"folder": "folder", "files": "files", "bytes": "bytes", "key_fingerprint": "signed by"}
        print_facts("As it was signed", {name: found[key] for key, name in names.items()})
    else:
        print_facts("As it was written", {"model": target, **_counts(done["version"])})


def _percent(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text.removesuffix("%"))
    except ValueError as exc:
        raise RequestError(f"--sample {text} is no percentage; write it as in --sample 10%.") from exc


def _counts(found: dict[str, Any]) -> dict[str, object]:
    facts: dict[str, object] = {
        "digest": found["id"]["digest"],
        "objects": f"{found['objects']} of {found['objects_total']}",
        "segments": f"{found['segments']} of {found['segments_total']}",
        "files": found["files"],
        "tensors": found["tensors"],
        "bytes read": found["read_bytes"],
    }
    if found["sample_percent"] is not None:
        facts["sample"] = f"{found['sample_percent']:g} % (repeat with --seed {found['seed']})"
    return facts
