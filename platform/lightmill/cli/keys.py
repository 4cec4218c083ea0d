"""lightmill keys: the key ring and its root keys. Works with the platform down; a running one notices."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from lightmill.cli.operations import operate
from lightmill.cli.output import JsonOption, notes, print_facts, print_json, print_table
from lightmill.errors import RequestError
from lightmill.records.references import AssetKind

AskOption = Annotated[
    bool,
    typer.Option("--ask-passphrase", help="Ask for the ring's passphrase; else LIGHTMILL_PASSPHRASE_FILE has it."),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask for the name again.")]
WorkspaceOption = Annotated[str, typer.Option(help="This workspace instead of one asset.")]
KeyIdOption = Annotated[str, typer.Option(help="A key that the key service's operator made, instead of a new one.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Root keys: list, protect, use, rotate, isolate, erase, rekey.", no_args_is_help=True)
    for command in (protect, unprotect, use, rotate, isolate, erase, destroy, rekey, receipts):
        group.command(command.__name__)(command)
    group.command("list")(list_keys)
    app.add_typer(group, name="keys")


def list_keys(ask: AskOption = False, json_output: JsonOption = False) -> None:
    """List every root key: what it is for, who holds it, and how many versions are wrapped by it."""
    found = _run("keys.list", {}, ask, json_output)
    if json_output:
        return
    rows = [
        (k["scope"], k["provider"], k["key_id"], _state_of(k), k["versions"], k["drafts"], k["created"][:19])
        for k in found["keys"]
    ]
    columns = ("scope", "provider", "key id", "state", "versions", "drafts", "created")
    print_table(f"Root keys ({found['path']}, protection: {found['protection']})", columns, rows)


def protect(
    kdf: Annotated[str, typer.Option(help="argon2id (64 MiB, 3 passes) or scrypt (2^16).")] = "argon2id",
    prompt: Annotated[
        bool, typer.Option("--prompt", help="Ask for the new passphrase instead of reading LIGHTMILL_PASSPHRASE_FILE.")
    ] = False,
    ask: AskOption = False,
    json_output: JsonOption = False,
) -> None:
    """Seal the key ring's secrets under a passphrase.

    Workers and replicas read it from the file that LIGHTMILL_PASSPHRASE_FILE names. Copies of the unprotected
    ring in backups stay as they are.
    """
    options: dict[str, object] = {"kdf": kdf}
    if prompt:
        options["new_passphrase"] = typer.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True)
    _show_ring(_run("keys.protect", options, ask, json_output), json_output)


def unprotect(ask: AskOption = False, json_output: JsonOption = False) -> None:
    """Write the key ring's secrets as they are, guarded by the file's mode alone."""
    _show_ring(_run("keys.unprotect", {}, ask, json_output), json_output)


def use(
    provider: Annotated[str, typer.Argument(help="local, aws-kms or vault-transit")],
    key_id: Annotated[str, typer.Option("--key-id", "--key", help="The root key there; else a new one is made.")] = "",
    region: Annotated[str, typer.Option(help="aws-kms: the region, unless the key id is an ARN.")] = "",
    endpoint: Annotated[str, typer.Option(help="aws-kms: another endpoint, such as a VPC's.")] = "",
    url: Annotated[str, typer.Option(help="vault-transit: https://host:8200")] = "",
    mount: Annotated[str, typer.Option(help="vault-transit: where the engine is mounted.")] = "transit",
    namespace: Annotated[str, typer.Option(help="vault-transit: the namespace.")] = "",
    token_file: Annotated[str, typer.Option(help="vault-transit: a file of mode 0600 with the token.")] = "",
    ca_file: Annotated[str, typer.Option(help="vault-transit: certificates to trust.")] = "",
    wrap_ring: Annotated[
        bool, typer.Option("--wrap-ring", help="Seal the key ring's own secrets under that key too.")
    ] = False,
    ask: AskOption = False,
    json_output: JsonOption = False,
) -> None:
    """Choose the key service that wraps from now on.

    Versions wrapped before stay readable through what wrapped them; `keys rotate --no-new-key` moves them.
    """
    options = {
        "provider": provider,
        "key_id": key_id,
        "region": region,
        "endpoint": endpoint,
        "url": url,
        "mount": mount,
        "namespace": namespace,
        "token_file": token_file,
        "ca_file": ca_file,
        "wrap_ring": wrap_ring,
    }
    _show_ring(_run("keys.use", dict(options), ask, json_output), json_output)
    if not json_output:
        notes.print("Versions wrapped before stay under their keys; move them with: lightmill keys rotate --no-new-key")


def rotate(
    workspace: WorkspaceOption = "",
    no_new_key: Annotated[
        bool,
        typer.Option("--no-new-key", help="Only wrap what is not under the current key: to finish, or after `use`."),
    ] = False,
    ask: AskOption = False,
    json_output: JsonOption = False,
) -> None:
    """Make new root keys and wrap every version's key again; data is not touched.

    It may be interrupted: go on with --no-new-key. It does not help against somebody who has read a version's
    key already (`keys rekey --deep`), and old keys stay until `keys destroy`.
    """
    found = _run("keys.rotate", {"workspace": workspace, "new_keys": not no_new_key}, ask, json_output)
    if not json_output:
        _show_rewrap("Rotation", found)


def isolate(
    kind: Annotated[AssetKind | None, typer.Argument(help="model, dataset or run")] = None,
    name: Annotated[str, typer.Argument(help="The asset's name.")] = "",
    workspace: WorkspaceOption = "",
    key_id: KeyIdOption = "",
    ask: AskOption = False,
    json_output: JsonOption = False,
) -> None:
    """Give an asset or a workspace a root key of its own, so that it can be erased alone.

    Done before the first version is published, no copy is ever under another key. Done later, copies of the old
    envelopes (backups, object versioning) open with the older key until that is destroyed too.
    """
    options = {"kind": kind, "name": name, "workspace": workspace, "key_id": key_id}
    found = _run("keys.isolate", dict(options), ask, json_output)
    if json_output:
        return
    _show_rewrap("Isolation", found)
    if not found["rewrapped"] + found["unchanged"] + found["erased"]:
        notes.print("There is no version of that name yet; the first one will be under this key from the start")
    if found["rewrapped"]:
        notes.print(
            f"Backups of {found['rewrapped']} older envelopes, if there are any, still open with the older root key. "
            "Destroy that too to close them: lightmill keys rotate, then lightmill keys destroy KEY_ID"
        )


def erase(
    kind: Annotated[AssetKind | None, typer.Argument(help="model, dataset or run")] = None,
    name: Annotated[str, typer.Argument(help="The asset's name.")] = "",
    workspace: WorkspaceOption = "",
    yes: YesOption = False,
    ask: AskOption = False,
    json_output: JsonOption = False,
) -> None:
    """Destroy the root keys of an asset or a workspace: no copy of its data can be read again. Not undone."""
    options: dict[str, object] = {"kind": kind, "name": name, "workspace": workspace}
    if not yes:
        _check_terminal()
        plan = operate("keys.erase", options | _secret(ask) | {"dry_run": True}, quiet=True)
        _confirm(
            f"This erases {plan['what']}: {plan['versions']} versions, {len(plan['keys'])} root keys.", plan["what"]
        )
    found = _run("keys.erase", options, ask, json_output)
    if not json_output:
        _show_destroyed(found)
        notes.print(
            "Copies of a local key ring in backups still hold its keys. Names and metrics stay in the catalog, and "
            "processes that had opened a version keep its key in memory until they end"
        )


def destroy(key_id: str, yes: YesOption = False, ask: AskOption = False, json_output: JsonOption = False) -> None:
    """Destroy one old root key that no version and no draft on the store needs. Not undone.

    Backups of the store whose envelopes are under it become unreadable; that is the point.
    """
    if not yes:
        _confirm(f"This destroys the root key {key_id}.", key_id)
    found = _run("keys.destroy", {"key_id": key_id}, ask, json_output)
    if not json_output:
        _show_destroyed(found)


def rekey(
    kind: Annotated[AssetKind, typer.Argument(help="model, dataset or run")],
    reference: Annotated[str, typer.Argument(help="name or name@3")],
    deep: Annotated[bool, typer.Option("--deep", help="Needed: encrypts every byte again under new keys.")] = False,
    ask: AskOption = False,
    json_output: JsonOption = False,
) -> None:
    """Publish a version's content again under new keys, for when its keys may have been read.

    The old version stays, readable with its old keys, until it is removed or erased; whoever read those keys and
    copied the data keeps the copy. Aliases stay where they are.
    """
    if not deep:
        raise RequestError("To wrap keys again use `lightmill keys rotate`; to encrypt all bytes again add --deep")
    found = _run("keys.rekey", {"kind": kind, "reference": reference}, ask, json_output)
    if json_output:
        return
    print_facts(
        f"{kind.capitalize()} {found['version']}", {k: found[k] for k in ("source", "digest", "blobs", "receipt")}
    )
    notes.print(f"Aliases stay where they are; move one with: lightmill {kind}s alias NAME ALIAS VERSION")


def receipts(ask: AskOption = False, json_output: JsonOption = False) -> None:
    """Verify the audit trail of key changes and show it."""
    found = _run("keys.receipts", {}, ask, json_output)
    if json_output:
        return
    rows = [
        (r["n"], r["created"][:19], r["action"], r["what"], r["versions"], _fates(r["keys"]), r["receipt"])
        for r in found["receipts"]
    ]
    columns = ("n", "when", "action", "what", "versions", "keys", "receipt")
    print_table(f"Receipts ({found['path']}; chain and signatures verified)", columns, rows)


def _run(name: str, options: dict[str, object], ask: bool, json_output: bool) -> dict[str, Any]:
    found = operate(name, options | _secret(ask), quiet=json_output)
    if json_output:
        print_json(found)
    return found


def _secret(ask: bool) -> dict[str, object]:
    """Ask once; the answer travels to the operation on its standard input."""
    if ask and not _asked:
        _asked.append(typer.prompt("Passphrase of the key ring", hide_input=True, err=True))
    return {"passphrase": _asked[0]} if ask else {}


_asked: list[str] = []


def _check_terminal() -> None:
    if not sys.stdin.isatty():
        raise RequestError("Nobody is there to confirm; add --yes if you mean it")


def _confirm(warning: str, expected: str) -> None:
    _check_terminal()
    notes.print(f"[bold]{warning}[/] Nothing brings it back.")
    if typer.prompt(f"Type {expected!r} to go on", err=True).strip() != expected:
        raise RequestError("The names differ; nothing was destroyed")


def _show_ring(found: dict[str, Any], json_output: bool) -> None:
    if not json_output:
        print_facts("Key ring", {k.replace("_", " "): v for k, v in found.items()})


def _show_rewrap(title: str, found: dict[str, Any]) -> None:
    facts = {k: found[k] for k in ("rewrapped", "unchanged", "erased", "receipt")}
    print_facts(title, {"current keys": _fates(found["keys"])} | facts)
    for problem in found["problems"]:
        notes.print(f"Left as it was: {problem}", markup=False)


def _show_destroyed(found: dict[str, Any]) -> None:
    facts = {"versions": found["versions"], "keys": _fates(found["keys"]), "when": found["created"]}
    print_facts(f"Destroyed: {found['what']}", facts | {"receipt": found["receipt"]})


def _fates(keys: list[dict[str, Any]]) -> str:
    later = (f" (can be taken back in {k['provider']} until {k['final']})" if _later(k) else "" for k in keys)
    return ", ".join(k["key_id"] + text for k, text in zip(keys, later, strict=True))


def _later(key: dict[str, Any]) -> bool:
    return key["final"] not in ("", "now")


def _state_of(key: dict[str, Any]) -> str:
    if key["erased"]:
        return f"destroyed {key['erased'][:19]} ({key['receipt']})"
    return "current" if key["current"] else "old"
