"""up, down, status, environment: the platform's processes on this machine."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from lightmill.cli.output import JsonOption, console, notes, print_facts, print_json
from lightmill.errors import UnavailableError
from lightmill.launch import down as stop
from lightmill.launch import read_state
from lightmill.launch import up as start
from lightmill.sdk import connect
from lightmill.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("status")(status)
    app.command("environment")(environment)


def up(
    ray: Annotated[
        str | None, typer.Option(help="Deploy on the running Ray at this address instead of starting one.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Start the platform on this machine; a second time changes nothing."""
    settings = Settings.read()
    joined = start(settings, _quiet if json_output else notes.print, ray_address=ray)
    facts = where(settings)
    if json_output:
        print_json({**facts, "changed": joined.changed})
        return
    print_facts("Lightmill is up", facts)
    console.print("Stop it with: lightmill down")


def where(settings: Settings) -> dict[str, str]:
    """Return where everything of a running platform is."""
    state = read_state(settings)
    return {
        "api": f"{settings.base_url}/docs",
        "url": settings.base_url,
        "grpc": settings.grpc_address,
        "ray_dashboard": state.dashboard_url if state else "",
        "ray_address": state.ray_address if state else "",
        "home": str(settings.home),
        "store": settings.store_url,
        "catalog": _without_password(settings.catalog_url),
        "api_key_file": str(settings.api_key_path),
        "ray_token_file": str(settings.ray_token_path),
    }


def down(json_output: JsonOption = False) -> None:
    """Stop what `up` started, and nothing else; what should be comes back with the next `up`."""
    ended = stop(Settings.read())
    if json_output:
        print_json({"ended": ended})
    else:
        console.print(f"Lightmill is down: {ended} processes ended.")


def status(json_output: JsonOption = False) -> None:
    """Show whether the platform is up, and what it does."""
    settings = Settings.read()
    if read_state(settings) is None and not settings.url:
        raise UnavailableError(f"No platform was started from {settings.home}. Start one with `lightmill up`.")
    with connect() as client:
        found = client.status()
    if json_output:
        print_json(found.model_dump(mode="json"))
        return
    free = found.free
    print_facts(
        "Lightmill is up",
        {
            "version": found.version,
            "url": settings.base_url,
            "grpc": found.grpc or "none",
            "store": found.store,
            "nodes": found.nodes,
            "free": ", ".join(
                f"{free.get(key, 0):g} of {total:g} {key}"
                for key, total in found.resources.items()
                if key in ("CPU", "GPU")
            ),
            "datasets": found.datasets,
            "models": found.models,
            "endpoints": ", ".join(f"{count} {state}" for state, count in found.endpoints.items()) or "none",
            "jobs running": found.jobs_running,
        },
    )


def environment() -> None:
    """Print the environment of a node's Ray processes as shell exports, for `eval` before `ray start`."""
    for name, value in Settings.read().node_environment().items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def _quiet(_: str) -> None:
    return None


def _without_password(url: str) -> str:
    """Return a database URL with its password hidden."""
    url = url.partition("?")[0]
    head, at, tail = url.rpartition("@")
    user, colon, _ = head.rpartition(":")
    return f"{user}:***@{tail}" if at and colon and "//" in user else url
