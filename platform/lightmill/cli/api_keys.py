"""lightmill api-keys: who may call endpoints and the control API; `lightmill keys` is about keys of stored data."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from lightmill.cli.output import JsonOption, console, notes, print_facts, print_json, print_table
from lightmill.errors import RequestError
from lightmill.records.access import ANY_ENDPOINT, LimitsSpec
from lightmill.records.keys import KeySummary, MintedKey
from lightmill.sdk import connect

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"([0-9]{1,6})([smhdw])")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="API keys: create, list, rotate, revoke.", no_args_is_help=True)
    group.command("create")(create)
    group.command("list")(list_keys)
    group.command("rotate")(rotate)
    group.command("revoke")(revoke)
    app.add_typer(group, name="api-keys")


def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="predict:ENDPOINT, predict:* (the default), metrics or admin; may be given again."),
    ] = None,
    expires: Annotated[str, typer.Option(help="After how long (30d, 12h) or when (2030-01-31) it ends.")] = "",
    rate: Annotated[float | None, typer.Option(min=0.001, help="Requests a second to one endpoint.")] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="Requests that may come at once; needs --rate.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests that may be answered at a time.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Make a key and print it; it is shown this once and kept nowhere."""
    if burst is not None and rate is None:
        raise RequestError("--burst needs --rate; without a rate there is nothing to burst over.")
    until = parse_end(expires) if expires else None
    limits = LimitsSpec(requests_per_s=rate, burst=burst, concurrency=concurrency)
    with connect() as client:
        made = client.api_keys.create(name, scope or [ANY_ENDPOINT], expires=until, limits=limits)
    _print_made("API key", made, json_output)


def list_keys(json_output: JsonOption = False) -> None:
    """List the keys: their public beginnings, what they may do, and until when."""
    with connect() as client:
        found = client.api_keys.list()
    if json_output:
        print_json([key.model_dump(mode="json") for key in found])
        return
    rows = [
        (k.prefix, k.name, " ".join(k.scopes), k.state, _short(k.created), _short(k.expires), _short(k.last_used))
        for k in found
    ]
    print_table("API keys", ("prefix", "name", "scopes", "state", "created", "expires", "last used"), rows)


def rotate(
    id: Annotated[str, typer.Argument(help="The key's prefix, such as lm_0123abcd.")],
    overlap: Annotated[str, typer.Option(help="How long the old secret stays good beside the new one.")] = "1d",
    json_output: JsonOption = False,
) -> None:
    """Give a key a new secret and print it; name, scopes and limits stay."""
    with connect() as client:
        made = client.api_keys.rotate(id, overlap=parse_duration(overlap))
    _print_made("New secret", made, json_output)


def revoke(
    id: Annotated[str, typer.Argument(help="The key's prefix, such as lm_0123abcd.")], json_output: JsonOption = False
) -> None:
    """Revoke a key: within two seconds it opens nothing any more. Not undone."""
    with connect() as client:
        found = client.api_keys.revoke(id)
    if json_output:
        print_json(found.model_dump(mode="json"))
    else:
        print_facts(f"API key {found.prefix}", _facts(found))


def parse_duration(text: str) -> timedelta:
    """Return a length of time such as `30d`; RequestError if it is none."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise RequestError(f"{text!r} is no length of time; write a number with s, m, h, d or w, such as 30d.")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def parse_end(text: str) -> datetime | timedelta:
    """Return a length of time, or a date or time (ISO 8601, in UTC unless it says otherwise)."""
    if _DURATION.fullmatch(text):
        return parse_duration(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise RequestError(
            f"{text!r} is neither a length of time, such as 30d, nor a date, such as 2030-01-31."
        ) from exc
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _print_made(title: str, made: MintedKey, json_output: bool) -> None:
    if json_output:
        print_json(made.model_dump(mode="json"))
        return
    print_facts(f"{title} {made.summary.prefix}", _facts(made.summary))
    notes.print("The key is shown this once; keep it where secrets are kept:")
    console.print(made.key, highlight=False, soft_wrap=True, markup=False)


def _facts(key: KeySummary) -> dict[str, object]:
    limits = key.limits.model_dump(exclude_none=True)
    facts = {
        "name": key.name,
        "scopes": " ".join(key.scopes),
        "state": key.state,
        "expires": key.expires,
        "revoked": key.revoked,
        "old secret until": key.old_until,
        "limits": ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in limits.items()),
    }
    return {name: value for name, value in facts.items() if value}


def _short(time: str | None) -> str:
    return (time or "")[:19]
