"""Masking policies as the command line gets them, and the platform's own log lines behind one."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lightmill.errors import NotFoundError, RequestError
from lightmill.settings import Settings
from lightmill.telemetry import configure_logging
from lightmill.wiring.bootstrap import bootstrap
from lightmill.wiring.log_masking import mask_logs
from lightmill.wiring.operations import OperationContext, run_operation
from lightmill.wiring.platform import open_platform

POLICY = {
    "name": "staff",
    "rules": [
        {"columns": ["mail"], "action": "pseudonym"},
        {"tags": ["date_of_birth"], "action": "drop"},
        {"detectors": ["phone", "email"], "action": "redact"},
    ],
}
SECRETS = ("someone@canary.example", "+49 151 23456789", "1980-01-02")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    bootstrap(Settings(home=home))
    (home / "masking.yaml").write_text(yaml.safe_dump(POLICY))
    made = run(home, "masking.add", path=str(home / "masking.yaml"))
    assert (made["policy"]["name"], made["policy"]["version"]) == ("staff", 1)
    return home


def run(home: Path, operation: str, **options: object) -> dict:
    context = OperationContext(settings=Settings(home=home), report=lambda _: None)
    return run_operation(operation, options, context).model_dump(mode="json")


def test_a_policy_is_listed_and_shown(home: Path) -> None:
    assert [one["policy"]["name"] for one in run(home, "masking.list")["policies"]] == ["staff"]
    assert run(home, "masking.show", reference="staff@1")["policy"]["rules"][0]["columns"] == ["mail"]


def test_a_file_that_is_no_policy_is_refused(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "masking.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "rules": [{"detectors": ["emails"], "action": "redact"}]}))
    with pytest.raises(RequestError, match="'emails' is no detector"):
        run(home, "masking.add", path=str(path))
    with pytest.raises(NotFoundError):
        run(home, "masking.add", path=str(tmp_path / "none.yaml"))


def test_checking_a_text_says_what_is_found_and_what_is_left(home: Path) -> None:
    found = run(home, "masking.check", policy="staff@1", text=f"write {SECRETS[0]}, or call {SECRETS[1]}")
    assert found["masked"] == "write [email], or call [phone]"
    assert [(one["detector"], one["values"]) for one in found["report"]["counts"]] == [("email", 1), ("phone", 1)]
    assert (found["report"]["policy"], found["report"]["version"]) == ("staff", 1)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_checking_a_file_counts_and_shows_no_value(home: Path, tmp_path: Path, kind: str) -> None:
    rows = [{"mail": SECRETS[0], "note": f"call {SECRETS[1]}", "born": SECRETS[2]} for _ in range(5)]
    lines = ["mail,note,born", *(",".join(row.values()) for row in rows)] if kind == "csv" else map(json.dumps, rows)
    path = tmp_path / f"rows.{kind}"
    path.write_text("\n".join(lines) + "\n")
    asked = {"policy": str(home / "masking.yaml"), "path": str(path), "tags": {"born": ["date_of_birth"]}}
    found = run(home, "masking.check", **asked)
    counts = {(one["column"], one["detector"], one["action"]): one["values"] for one in found["report"]["counts"]}
    assert counts[("mail", None, "pseudonym")] == counts[("note", "phone", "redact")] == 5
    assert (found["report"]["rows"], found["dropped"], found["whole"]) == (5, ["born"], True)
    assert not any(secret in json.dumps(found) for secret in SECRETS)
    assert run(home, "masking.check", **asked, rows=3)["report"]["rows"] == 3


def test_noise_in_a_csv_file_is_on_numbers(home: Path, tmp_path: Path) -> None:
    rule = {"tags": ["pay"], "action": "noise", "epsilon": 0.5, "minimum": 0, "maximum": 100}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"name": "p", "rules": [rule]}))
    (tmp_path / "a.csv").write_text("name,wage\nx,1\ny,2.5\nz,much\n")
    tags = {"wage": ["pay"]}
    found = run(home, "masking.check", policy=str(tmp_path / "p.yaml"), path=str(tmp_path / "a.csv"), tags=tags)
    assert (found["report"]["epsilon"], found["report"]["rows"], found["unreadable"]) == ({"wage": 0.5}, 2, 1)


def test_what_a_check_cannot_answer_is_refused_with_a_remedy(home: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="a text or a file"):
        run(home, "masking.check", policy="staff@1")
    (tmp_path / "a.csv").write_text("x\n1\n")
    with pytest.raises(RequestError, match="'mail'"):
        run(home, "masking.check", policy="staff@1", path=str(tmp_path / "a.csv"))
    path = tmp_path / "columns.yaml"
    path.write_text(yaml.safe_dump({"name": "c", "rules": [{"columns": ["a"], "action": "redact"}]}))
    with pytest.raises(RequestError, match="check it on a file"):
        run(home, "masking.check", policy=str(path), text="a")


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The platform's logger as a process begins with it, put back as it was at the end."""
    logger = logging.getLogger("lightmill")
    before = (list(logger.handlers), logger.level, logger.propagate)
    logger.handlers = []
    yield logger
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def test_log_lines_and_stack_traces_pass_through_the_policy_that_the_settings_name(
    home: Path, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    mask_logs(open_platform(Settings(home=home)))
    logger.warning("before %s", SECRETS[0])
    for _ in range(2):
        mask_logs(open_platform(Settings(home=home, log_masking="staff@1")))
    logging.getLogger("lightmill.job").info("rows of %s", SECRETS[0])
    try:
        raise ValueError(f"could not read {SECRETS[1]}")
    except ValueError:
        logging.getLogger("lightmill.job").exception("failed")
    shown = capsys.readouterr().err
    assert shown.count(SECRETS[0]) == 1 and SECRETS[1] not in shown
    assert "rows of [email]" in shown and "ValueError: could not read [phone]" in shown


def test_a_policy_that_would_mask_no_log_line_or_is_not_there_is_refused(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "columns.yaml"
    path.write_text(yaml.safe_dump({"name": "columns", "rules": [{"columns": ["a"], "action": "redact"}]}))
    run(home, "masking.add", path=str(path))
    with pytest.raises(RequestError, match="LIGHTMILL_LOG_MASKING"):
        mask_logs(open_platform(Settings(home=home, log_masking="columns@1")))
    with pytest.raises(NotFoundError):
        mask_logs(open_platform(Settings(home=home, log_masking="nobody")))


@pytest.mark.slow
def test_the_commands_show_tables_to_people_and_json_to_scripts(home: Path, tmp_path: Path) -> None:
    def lightmill(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        script = "from lightmill.cli import main; main()"
        environment = os.environ | {"LIGHTMILL_HOME": str(home), "COLUMNS": "160"}
        return subprocess.run(
            [sys.executable, "-c", script, "masking", *arguments],
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    added = lightmill("add", str(home / "masking.yaml"), "--json")
    assert json.loads(added.stdout)["policy"]["version"] == 1
    assert "staff@1" in lightmill("list").stdout
    shown = lightmill("show", "staff").stdout
    assert "tag date_of_birth" in shown and "every text" in shown
    checked = lightmill("check", "staff@1", "--text", "-", stdin=f"call {SECRETS[1]}")
    assert "call [phone]" in checked.stdout and SECRETS[1] not in checked.stdout + checked.stderr
    assert lightmill("show", "staff@9").returncode == 3
    assert lightmill("check", "staff@1").returncode == 2
    assert lightmill("check", "staff@1", "--text", "a", "--tag", "born").returncode == 2
