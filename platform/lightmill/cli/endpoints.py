"""deploy, predict, and the endpoints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from lightmill.cli.following import follow_endpoint
from lightmill.cli.output import JsonOption, print_facts, print_json, print_table
from lightmill.errors import NotFoundError, RequestError
from lightmill.records.endpoints import Endpoint
from lightmill.records.graphs import endpoints_in
from lightmill.records.specs import EndpointSpec
from lightmill.sdk import connect


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("deploy")(deploy)
    app.command("predict")(predict)
    group = typer.Typer(help="Endpoints: list, show, delete.", no_args_is_help=True)
    group.command("list")(list_endpoints)
    group.command("show")(show)
    group.command("delete")(delete)
    app.add_typer(group, name="endpoints")


def deploy(
    spec: Annotated[Path, typer.Argument(help="The YAML specification.")],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it answers.")] = True,
    json_output: JsonOption = False,
) -> None:
    """Create or change an endpoint."""
    with connect() as client:
        endpoint = client.endpoints.deploy(spec, wait=False)
        if wait:
            endpoint = follow_endpoint(client, endpoint.name, quiet=json_output)
    _print_endpoint(endpoint, json_output)


def list_endpoints(json_output: JsonOption = False) -> None:
    """List the endpoints."""
    with connect() as client:
        found = client.endpoints.list()
    if json_output:
        print_json([endpoint.model_dump(mode="json") for endpoint in found])
        return
    rows = [(e.name, e.state, _follows(e.spec), e.version or "", e.replicas, e.url, e.message) for e in found]
    columns = ("name", "state", "follows", "version", "replicas", "url", "message")
    print_table("Endpoints", columns, rows)


def show(name: str, json_output: JsonOption = False) -> None:
    """Show one endpoint."""
    with connect() as client:
        endpoint = client.endpoints.show(name)
    _print_endpoint(endpoint, json_output)


def delete(name: str, json_output: JsonOption = False) -> None:
    """Take an endpoint away."""
    with connect() as client:
        endpoint = client.endpoints.delete(name)
    _print_endpoint(endpoint, json_output)


def predict(
    endpoint: str,
    rows: Annotated[
        str, typer.Argument(help="A JSON list of rows, or the path of a file that holds one; - reads input.")
    ],
    json_output: JsonOption = False,
) -> None:
    """Ask an endpoint about rows of features in source units."""
    values = _read_rows(rows)
    with connect() as client:
        found = client.endpoints.predict(endpoint, values)
    if json_output:
        print_json([prediction.model_dump(mode="json") for prediction in found])
        return
    table = [(n, p.label, f"{max(p.probabilities):.4f}", p.model_version) for n, p in enumerate(found)]
    print_table(f"Endpoint {endpoint}", ("row", "label", "probability", "version"), table)


def _follows(spec: EndpointSpec) -> str:
    """Return the model that an endpoint follows, or the endpoints that its graph calls."""
    return spec.model if spec.graph is None else f"graph of {', '.join(endpoints_in(spec.graph))}"


def _read_rows(text: str) -> list[list[float]]:
    if text == "-":
        text = sys.stdin.read()
    elif not text.lstrip().startswith("["):
        path = Path(text)
        if not path.is_file():
            raise NotFoundError(f"No file at {path}. Give rows as JSON, such as '[[0, 5, 13]]', or a file of them.")
        text = path.read_text()
    try:
        rows = json.loads(text)
    except ValueError as exc:
        raise RequestError(f"The rows are not valid JSON: {exc}.") from exc
    if isinstance(rows, list) and rows and not isinstance(rows[0], list):
        rows = [rows]
    if not isinstance(rows, list) or not rows:
        raise RequestError("Give at least one row, such as '[[0, 5, 13]]'.")
    return rows


def _print_endpoint(endpoint: Endpoint, json_output: bool) -> None:
    if json_output:
        print_json(endpoint.model_dump(mode="json"))
        return
    spec = endpoint.spec
    replicas, parallel, split, models = spec.replicas, spec.parallel, spec.split, spec.models
    facts = {
        "state": endpoint.state,
        "url": endpoint.url,
        "follows": _follows(spec),
        "version": str(endpoint.version or ""),
        "replicas": f"{endpoint.replicas} (from {replicas.min} to {replicas.max})" if spec.graph is None else "",
        "each replica": f"{parallel.kind} over {parallel.ranks} ranks" if parallel else "",
        "divides": f"requests of more than {split.rows} rows" if split else "",
        "further models": f"{', '.join(models.names)}, {models.memory_mb:g} MB in memory" if models else "",
        "tuned by": ", ".join(name for name, value in spec.tuning if value),
        "message": endpoint.message,
    }
    print_facts(f"Endpoint {endpoint.name}", {name: value for name, value in facts.items() if value})
