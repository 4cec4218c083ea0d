"""The command line as a user meets it, without a platform: what it loads, takes, prints and returns."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import typer.main

from lightmill.cli.main import app, main

ROOT = Path(__file__).parents[3]
SCRIPT = "from lightmill.cli import main; main()"
FROZEN = {
    "": ["--debug"],
    "api-keys create": ["name", "--scope", "--expires", "--rate", "--burst", "--concurrency", "--json"],
    "api-keys list": ["--json"],
    "api-keys revoke": ["id", "--json"],
    "api-keys rotate": ["id", "--overlap", "--json"],
    "cluster": [],
    "datasets alias": ["name", "alias", "version", "--expect", "--json"],
    "datasets alias-history": ["name", "alias", "--json"],
    "datasets card": ["reference"],
    "datasets croissant": ["reference"],
    "datasets delete": ["reference", "--reason", "--json"],
    "datasets describe": ["reference", "--description", "--intended-use", "--limitations", "--json"],
    "datasets diff": ["old", "new", "--limit", "--json"],
    "datasets export": ["reference", "--out", "--columns", "--splits", "--force", "--json"],
    "datasets infer": ["path", "--name", "--format", "--out", "--json"],
    "datasets list": ["--all", "--json"],
    "datasets profile": ["reference", "--out", "--json"],
    "datasets retention": [
        "name",
        "--keep-last",
        "--keep-days",
        "--keep-tagged",
        "--even-if-used",
        "--apply",
        "--json",
    ],
    "datasets rollback": ["name", "alias", "--to", "--json"],
    "datasets row": ["reference", "row_id", "--split", "--position", "--json"],
    "datasets rows": ["reference", "--split", "--limit", "--offset"],
    "datasets search": ["query", "--sort", "--limit", "--after", "--json"],
    "datasets show": ["reference", "--all", "--json"],
    "datasets tag": ["reference", "tags", "--remove", "--json"],
    "demo": ["folder"],
    "deploy": ["spec", "--wait", "--no-wait", "--json"],
    "down": ["--json"],
    "endpoints delete": ["name", "--json"],
    "endpoints list": ["--json"],
    "endpoints show": ["name", "--json"],
    "environment": [],
    "ingest": ["spec", "--wait", "--no-wait", "--json"],
    "jobs cancel": ["id", "--json"],
    "jobs list": ["--limit", "--json"],
    "jobs logs": ["id", "--follow", "-f"],
    "jobs metrics": ["id", "--steps", "--only", "--limit", "--plot", "--out", "--json"],
    "jobs replay": ["run", "--folder", "--wait", "--no-wait", "--json"],
    "jobs show": ["id", "--json"],
    "jobs trials": ["job", "--limit", "--json"],
    "jobs watch": ["id", "--json"],
    "keys destroy": ["key_id", "--yes", "--ask-passphrase", "--json"],
    "keys erase": ["kind", "name", "--workspace", "--yes", "--ask-passphrase", "--json"],
    "keys isolate": ["kind", "name", "--workspace", "--key-id", "--ask-passphrase", "--json"],
    "keys list": ["--ask-passphrase", "--json"],
    "keys protect": ["--kdf", "--prompt", "--ask-passphrase", "--json"],
    "keys receipts": ["--ask-passphrase", "--json"],
    "keys rekey": ["kind", "reference", "--deep", "--ask-passphrase", "--json"],
    "keys rotate": ["--workspace", "--no-new-key", "--ask-passphrase", "--json"],
    "keys unprotect": ["--ask-passphrase", "--json"],
    "keys use": [
        "provider",
        "--key-id",
        "--key",
        "--region",
        "--endpoint",
        "--url",
        "--mount",
        "--namespace",
        "--token-file",
        "--ca-file",
        "--wrap-ring",
        "--ask-passphrase",
        "--json",
    ],
    "lineage": ["reference", "--dataset", "--json"],
    "masking add": ["file", "--json"],
    "masking check": ["policy", "--text", "--file", "--format", "--tag", "--rows", "--json"],
    "masking list": ["--json"],
    "masking show": ["reference", "--json"],
    "models alias": ["name", "alias", "version", "--expect", "--json"],
    "models alias-history": ["name", "alias", "--json"],
    "models card": ["reference"],
    "models delete": ["reference", "--reason", "--json"],
    "models describe": ["reference", "--description", "--intended-use", "--limitations", "--json"],
    "models export": ["reference", "folder", "--format", "--unsigned", "--json"],
    "models import": ["path", "--name", "--alias", "--card", "--convert-pickle", "--json"],
    "models list": ["--all", "--json"],
    "models metrics": ["reference", "--steps", "--only", "--limit", "--plot", "--out", "--json"],
    "models promote": ["reference", "--stage", "--require", "--json"],
    "models retention": ["name", "--keep-last", "--keep-days", "--keep-tagged", "--even-if-used", "--apply", "--json"],
    "models rollback": ["name", "alias", "--to", "--json"],
    "models search": ["query", "--sort", "--limit", "--after", "--json"],
    "models show": ["reference", "--all", "--json"],
    "models tag": ["reference", "tags", "--remove", "--json"],
    "models verify": ["target", "--sample", "--seed", "--public-key", "--json"],
    "promote": ["endpoint", "--candidate", "--json"],
    "plan": ["spec", "--strategy", "--probe", "--no-probe", "--gbits", "--json"],
    "predict": ["endpoint", "rows", "--json"],
    "registry backup": ["target", "--verify-all", "--json"],
    "registry check": ["--deep", "--sample", "--seed", "--json"],
    "registry gc": ["--apply", "--dry-run", "--json"],
    "registry rebuild": ["--json"],
    "registry repair": ["--from", "--json"],
    "registry restore": ["source", "--json"],
    "rollback": ["endpoint", "--json"],
    "shadows": ["endpoint", "--limit", "--json"],
    "simulate": [
        "spec",
        "--trace",
        "--rate",
        "--low",
        "--duration-s",
        "--period-s",
        "--field",
        "--speed",
        "--batch-ms",
        "--row-ms",
        "--start-s",
        "--slo-ms",
        "--skip-s",
        "--policy",
        "--seed",
        "--plot",
        "--json",
    ],
    "status": ["--json"],
    "traffic": ["endpoint", "--json"],
    "train": ["spec", "--wait", "--no-wait", "--json"],
    "tune": ["spec", "--resume", "--wait", "--no-wait", "--json"],
    "up": ["--ray", "--json"],
}
del FROZEN["cluster"]


def flags() -> dict[str, list[str]]:
    """Walk the commands; the arguments by name, the options by their spellings."""
    found: dict[str, list[str]] = {}

    def walk(command: object, path: str) -> None:
        parameters = []
        for parameter in command.params:  # pyright: ignore
            if parameter.name in ("help", "install_completion", "show_completion"):
                continue
            if parameter.param_type_name == "argument":
                parameters.append(parameter.name)
            else:
                parameters += [*parameter.opts, *parameter.secondary_opts]
        children = getattr(command, "commands", None)
        if children is None or not path:
            found[path] = parameters
        for name, child in (children or {}).items():
            walk(child, f"{path} {name}".strip())

    walk(typer.main.get_command(app), "")
    return found


def test_commands_and_flags_are_the_frozen_ones() -> None:
    """A change here is a change for users: it belongs in the changelog."""
    assert flags() == FROZEN


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home without a platform, an address where nobody listens, and a key."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LIGHTMILL_", "RAY_"))}
    return kept | {
        "PYTHONPATH": str(ROOT / "platform"),
        "LIGHTMILL_HOME": str(tmp_path / "home"),
        "LIGHTMILL_HTTP_PORT": "9",
        "LIGHTMILL_API_KEY": "lm_00000000_" + "A" * 43,
        "COLUMNS": "200",
    }


def run(environment: dict[str, str], *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "--debug" in arguments or "Traceback" not in done.stderr + done.stdout
    return done


@dataclass(kw_only=True)
class Result:
    returncode: int
    stdout: str
    stderr: str


class Here:
    """Runs the command line in this process, which is faster; its environment is the one of `environment`."""

    def __init__(
        self, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys
        for name in [name for name in os.environ if name.startswith(("LIGHTMILL_", "RAY_"))]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            if name.startswith("LIGHTMILL_") or name == "COLUMNS":
                monkeypatch.setenv(name, value)

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        self.monkeypatch.setattr(sys, "argv", ["lightmill", *arguments])
        self.monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        self.capsys.readouterr()
        try:
            main()
        except SystemExit as exc:
            code = exc.code
        else:
            code = 0
        out, err = self.capsys.readouterr()
        return Result(returncode=int(code or 0), stdout=out, stderr=err)


@pytest.fixture
def here(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(environment, monkeypatch, capsys)


@pytest.mark.parametrize(
    "code",
    [
        "import lightmill",
        "import lightmill; lightmill.connect('http://127.0.0.1:9', 'lm_x').close()",
        "import sys; sys.argv = ['lightmill', '--help']\n"
        "from lightmill.cli import main\ntry: main()\nexcept SystemExit: pass",
        "import lightmill.launch, lightmill.sdk, lightmill.records.specs",
    ],
    ids=["import", "connect", "help", "launch"],
)
def test_the_client_loads_neither_ray_nor_torch(environment: dict[str, str], code: str) -> None:
    heavy = ("ray", "torch", "pyarrow", "numpy", "sqlalchemy")
    check = f"\nimport sys; print('LOADED', [name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code + check], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "LOADED []"


def test_help_names_every_command(environment: dict[str, str]) -> None:
    done = run(environment, "--help")
    assert done.returncode == 0
    assert all(f" {name.split()[0]} " in done.stdout for name in FROZEN if name)


TRAIN = "model: m\ndataset: d\narchitecture: {name: mlp, arguments: {hidden: [4]}}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "kind", "named"),
    [
        (("ingest", "nowhere.yaml"), 3, "NotFoundError", ("nowhere.yaml",)),
        (("train", "bad.yaml"), 2, "RequestError", ("bad.yaml", "unknown key 'epoch'", "epochs")),
        (("train", "broken.yaml"), 2, "RequestError", ("broken.yaml", "not valid YAML")),
        (("deploy", "bad.yaml"), 2, "RequestError", ("bad.yaml", "EndpointSpec")),
        (("simulate", "--policy", "schedule"), 2, "RequestError", ("needs windows",)),
        (("simulate", "--policy", "magic"), 2, "RequestError", ("'magic'", "forecast")),
        (("simulate", "--trace", "nowhere.log"), 3, "NotFoundError", ("nowhere.log", "access log")),
        (
            ("simulate", "--trace", "constant", "--rate", "-1"),
            2,
            "RequestError",
            ("trace.constant.rate", "greater than 0"),
        ),
        (("predict", "e", "[[1, 2"), 2, "RequestError", ("not valid JSON",)),
        (("predict", "e", "[]"), 2, "RequestError", ("at least one row",)),
        (("predict", "e", "rows.json"), 3, "NotFoundError", ("rows.json",)),
        (("status",), 7, "UnavailableError", ("lightmill up",)),
        (("down",), 3, "NotFoundError", ("nothing to stop",)),
        (("jobs", "list"), 7, "UnavailableError", ("127.0.0.1:9", "lightmill up")),
        (("predict", "e", "[[1, 2]]"), 7, "UnavailableError", ("127.0.0.1:9",)),
        (("models", "show", "Bad Name@1"), 7, "UnavailableError", ("127.0.0.1:9",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_an_error_is_one_line_with_an_exit_code_and_no_stack_trace(
    here: Here,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    kind: str,
    named: tuple[str, ...],
) -> None:
    (tmp_path / "bad.yaml").write_text(TRAIN + "epoch: 3\n")
    (tmp_path / "broken.yaml").write_text("a: [1")
    shown = tuple(str(tmp_path / part) if part.endswith(("yaml", "rows.json")) else part for part in arguments)
    done = here(*shown, "--json")
    assert done.returncode == code, done.stderr
    body = json.loads(done.stdout)
    assert body.keys() == {"error", "type"}
    assert body["type"] == kind
    assert [part for part in named if part not in body["error"]] == [], body["error"]


def test_without_json_the_error_goes_to_standard_error(environment: dict[str, str]) -> None:
    done = run(environment, "status")
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.startswith("Error: No platform was started")


def test_debug_shows_the_stack_trace(environment: dict[str, str]) -> None:
    done = run(environment, "--debug", "status")
    assert "Traceback" in done.stderr and "UnavailableError" in done.stderr
    assert done.returncode != 0


def test_no_key_is_an_authentication_error(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIGHTMILL_API_KEY")
    done = here("models", "list", "--json")
    assert done.returncode == 5
    assert "LIGHTMILL_API_KEY" in json.loads(done.stdout)["error"]


def test_a_wrong_variable_is_named(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTMILL_HTTP_PORT", "eighty")
    done = here("models", "list", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert "LIGHTMILL_HTTP_PORT" in error and "'eighty'" in error


@pytest.mark.parametrize("arguments", [("fly",), ("train",), ("jobs", "list", "--limit", "0"), ("up", "--fast")])
def test_a_wrong_command_line_is_exit_code_2(here: Here, arguments: tuple[str, ...]) -> None:
    done = here(*arguments)
    assert done.returncode == 2
    assert "Usage:" in done.stderr


def test_rows_may_come_from_standard_input_or_a_file(here: Here, tmp_path: Path) -> None:
    assert json.loads(here("predict", "e", "-", "--json", stdin="nonsense").stdout)["type"] == "RequestError"
    (tmp_path / "rows.json").write_text("[1, 2]")
    done = here("predict", "e", str(tmp_path / "rows.json"), "--json")
    assert json.loads(done.stdout)["type"] == "UnavailableError"


def test_the_environment_of_a_node_is_printed_as_shell(environment: dict[str, str]) -> None:
    environment["LIGHTMILL_WORKSPACE"] = "it's a $(trap)"
    done = run(environment, "environment")
    assert done.returncode == 0
    shown = subprocess.run(
        ["sh", "-c", done.stdout + '\nprintf %s "$LIGHTMILL_WORKSPACE"'], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "it's a $(trap)"
