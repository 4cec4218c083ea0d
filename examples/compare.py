"""Train an example under several strategies and print what each came to.

Run: python examples/compare.py text-classifier
     python examples/compare.py tiny-llama --strategies ddp,fsdp

It gathers the texts if nobody has and ingests them; it needs no platform: each run is a job of its own on this machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
JOBS = HERE.parent / "jobs"
EXAMPLES = ("text-classifier", "tiny-llama")
STRATEGIES = ("ddp", "fsdp", "tensor", "pipeline", "parameter_server")
SHOWN = ("test_accuracy", "test_perplexity", "validation_loss", "steps_per_second")


def job(name: str, path: Path) -> dict[str, Any]:
    """Run a job file on a specification; return its last line."""
    command = [sys.executable, str(JOBS / f"{name}.py"), str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else {"error": f"{name} ended with {done.returncode} and said nothing"}


def prepared(folder: Path) -> None:
    """Gather the texts and ingest them."""
    if not (folder / "texts.jsonl").is_file():
        done = subprocess.run([sys.executable, str(HERE / "gather.py"), folder.name], check=False)
        if done.returncode:
            raise SystemExit(done.returncode)  # it has said why
    found = job("ingest", folder / "dataset.yaml")
    if "error" in found:
        raise SystemExit(found["error"])


def trained(folder: Path, strategy: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Train under one strategy; return the job's last line with its `seconds`."""
    spec = yaml.safe_load((folder / "train.yaml").read_text()) | changes | {"strategy": strategy}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "train.yaml")
        path.write_text(yaml.safe_dump(spec))
        started = time.perf_counter()
        return job("train", path) | {"seconds": time.perf_counter() - started}


def row(strategy: str, result: dict[str, Any]) -> str:
    """Return a line of the table."""
    if "error" in result:
        return f"{strategy:<18}{result['error']}"
    metrics = result["metrics"]
    cells = [f"{metrics[name]:>17.4f}" if name in metrics else " " * 17 for name in SHOWN]
    return f"{strategy:<18}{''.join(cells)}{result['seconds']:>10.0f}"


def main() -> int:
    """Train and print; return 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("example", choices=EXAMPLES)
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="names, with commas between them")
    parser.add_argument("--epochs", type=int, help="in place of those of train.yaml")
    chosen = parser.parse_args()
    folder = HERE / chosen.example
    prepared(folder)
    changes = {"epochs": chosen.epochs} if chosen.epochs else {}
    results = {name: trained(folder, name, changes) for name in chosen.strategies.split(",")}
    head = f"{'strategy':<18}{''.join(f'{name:>17}' for name in SHOWN)}{'seconds':>10}"
    sys.stdout.write("\n".join([head, *(row(name, result) for name, result in results.items())]) + "\n")
    return int(any("error" in result for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
