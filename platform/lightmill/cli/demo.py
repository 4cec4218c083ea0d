"""The whole path on real input, in one command."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lightmill.cli.following import follow_endpoint, follow_job
from lightmill.cli.node import where
from lightmill.cli.output import console, notes, print_facts, print_json
from lightmill.errors import LightmillError
from lightmill.launch import up as start
from lightmill.sdk import Client, connect
from lightmill.settings import Settings

ACCURACY_GOAL = 0.96
PREDICT_ROWS = 64


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    folder: Annotated[Path, typer.Argument(help="A folder with dataset, train and endpoint specifications.")] = Path(
        "examples/digits"
    ),
) -> None:
    """Start the platform, then ingest, train, deploy and predict; the last line is JSON."""
    began = time.monotonic()
    settings = Settings.read()
    start(settings, notes.print)
    with connect() as client:
        dataset = follow_job(client, client.jobs.ingest(folder / "dataset.yaml"), quiet=False)
        trained = follow_job(client, client.jobs.train(folder / "train.yaml"), quiet=False)
        name = client.endpoints.deploy(folder / "endpoint.yaml", wait=False).name
        endpoint = follow_endpoint(client, name, quiet=False)
        version = str(dataset.result["dataset_version"])
        rows, labels = held_out(client, version)
        first = first_prediction(client, name, rows[0], labels[0])
        seconds = time.monotonic() - began
        accuracy = measure(client, name, rows, labels)
    facts = {
        "dataset": version,
        "model": trained.result["model_version"],
        "endpoint": endpoint.url,
        "held-out accuracy": f"{accuracy:.4f} on {len(labels)} rows, through the endpoint",
        "first prediction": f"{first} (label {labels[0]}) after {seconds:.1f} s",
        "api": where(settings)["api"],
        "stop it with": "lightmill down",
    }
    print_facts("The whole path", facts)
    console.print("Ask it yourself:")
    console.print(curl(settings, endpoint.url, client_input(rows[0])), soft_wrap=True, highlight=False, markup=False)
    print_json(
        {
            "accuracy": accuracy,
            "endpoint": name,
            "url": endpoint.url,
            "model_version": trained.result["model_version"],
            "seconds": round(seconds, 1),
        }
    )
    if accuracy < ACCURACY_GOAL:
        raise LightmillError(f"The held-out accuracy is {accuracy:.4f}, below {ACCURACY_GOAL}.")


def held_out(client: Client, dataset: str) -> tuple[list[list[float]], list[int]]:
    """Return the test split's rows in source units and their labels."""
    card = client.datasets.version(dataset).version.card
    columns: Any = card["source_columns"]
    found = client.datasets.rows(dataset, "test", limit=10_000)
    rows = [list(values) for values in zip(*(found[name] for name in columns), strict=True)]
    return rows, found["label"]


def first_prediction(client: Client, endpoint: str, row: Sequence[float], label: int) -> int:
    """Return the endpoint's first answer."""
    return client.endpoints.predict(endpoint, [row])[0].label


def measure(client: Client, endpoint: str, rows: list[list[float]], labels: list[int]) -> float:
    """Return the share of rows that the endpoint gets right, asked over HTTP in batches."""
    right = 0
    for at in range(0, len(rows), PREDICT_ROWS):
        answers = client.endpoints.predict(endpoint, rows[at : at + PREDICT_ROWS])
        right += sum(a.label == b for a, b in zip(answers, labels[at : at + PREDICT_ROWS], strict=True))
    return right / len(labels)


def client_input(row: Sequence[float]) -> str:
    """Return the request body for one row of the digits."""
    data = [int(value) if float(value).is_integer() else value for value in row]
    tensor = {"name": "pixels", "shape": [1, len(row)], "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":"))


def curl(settings: Settings, url: str, body: str) -> str:
    """Return a command to paste; the key is read from its file, so that it is not shown."""
    return f"curl -s {url}/infer -H \"Authorization: Bearer $(cat {settings.api_key_path})\" -d '{body}'"
