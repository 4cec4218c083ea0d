"""Commands of datasets and models against a served registry: what they print and return."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator

import pytest

from lightmill.cli.main import main
from tests.served import Served, served
from tests.unit.api.test_assets import fill
from tests.unit.registry.world import World

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def platform(world: World) -> Iterator[Served]:
    fill(world)
    with served(world) as found:
        yield found


@pytest.fixture
def run(platform: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("LIGHTMILL_URL", platform.url)
    monkeypatch.setenv("LIGHTMILL_API_KEY", platform.key)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lightmill", *arguments])
        capsys.readouterr()
        try:
            main()
        except SystemExit as exc:
            code = int(exc.code or 0)
        else:
            code = 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_version_is_deleted_and_shown_only_on_demand(run: Run) -> None:
    assert run("models", "delete", "m@2", "--reason", "bad")[0] == 4
    assert run("models", "delete", "m@champion", "--reason", "bad")[0] == 2
    code, out, _ = run("models", "delete", "m@1", "--reason", "bad rows", "--json")
    assert (code, json.loads(out)["deleted"]["reason"]) == (0, "bad rows")
    assert "bad rows" not in run("models", "show", "m")[1]
    assert "deleted:" in run("models", "show", "m", "--all")[1]
    assert "bad rows" in run("models", "show", "m", "--all", "--json")[1]
    assert run("models", "show", "m@1")[0] == 3
    assert run("models", "delete", "child@1", "--reason", "bad")[0] == 0
    assert "child" not in run("models", "list")[1]
    assert "child" in run("models", "list", "--all")[1]
    code, out, _ = run("models", "show", "child", "--all", "--json")
    assert code == 0 and json.loads(out)["latest"] is None


def test_an_alias_looks_back_and_rolls_back(run: Run) -> None:
    out = run("models", "alias-history", "m", "champion")[1]
    assert "m@1" in out and "m@2" in out and "ed25519:" in out
    assert [move["target"] for move in json.loads(run("models", "alias-history", "m", "champion", "--json")[1])] == [
        1,
        2,
    ]
    assert "champion -> 1" in run("models", "rollback", "m", "champion")[1]
    assert "champion -> 2" in run("models", "rollback", "m", "champion", "--to", "2")[1]
    assert run("models", "rollback", "m", "champion", "--to", "9")[0] == 3


def test_tags_text_stage_and_card(run: Run, tmp_path) -> None:
    (tmp_path / "text.md").write_text("Reads *digits*.")
    assert run("models", "tag", "m@2", "team=vision", "note=a=b")[0] == 0
    assert "team=vision" in run("models", "show", "m")[1]
    assert run("models", "tag", "m@2", "team")[0] == 2
    assert json.loads(run("models", "tag", "m@2", "--remove", "note", "--json")[1])["notes"]["tags"] == {
        "team": "vision"
    }
    assert run("models", "describe", "m@2", "--description", f"@{tmp_path / 'text.md'}")[0] == 0
    assert run("models", "describe", "m@2", "--description", "@nowhere.md")[0] == 3
    assert run("models", "describe", "m@2")[0] == 2
    code, out, _ = run("models", "promote", "m@2", "--stage", "production", "--json")
    assert code == 4 and "an evaluation" in json.loads(out)["error"]
    assert run("models", "promote", "m@2", "--stage", "staging")[0] == 0
    assert run("models", "promote", "m@2", "--stage", "prod")[0] == 2
    shown = run("models", "show", "m@2")[1]
    assert "staging" in shown and "Reads *digits*." in shown
    card = run("models", "card", "m@2")[1]
    assert card.startswith("# m@2\n") and "Reads *digits*." in card and "Stage: staging" in card
    assert run("datasets", "tag", "d@1", "quality=gold")[0] == 0


def test_search_prints_a_table_or_json_and_where_to_go_on(run: Run) -> None:
    run("models", "tag", "m@2", "team=vision")
    found = json.loads(run("models", "search", "tag:team=vision metrics.test_accuracy>=0.1", "--json")[1])
    assert [entry["id"]["seq"] for entry in found["versions"]] == [2]
    code, out, err = run("models", "search", "metrics.test_accuracy>0", "--sort", "name", "--limit", "1")
    assert code == 0 and "child@1" in out and "0.5" in out and "--after" in err
    after = err.split()[-1]
    assert "m@1" in run("models", "search", "--sort", "name", "--limit", "1", "--after", after)[1]
    assert "none" in run("models", "search", "tag:nobody")[1]
    code, out, _ = run("models", "search", "colour:red", "--json")
    assert code == 2 and "colour:red" in json.loads(out)["error"]
    assert "d@1" in run("datasets", "search")[1]


def test_lineage_is_a_tree_or_json(run: Run, platform: Served) -> None:
    out = run("lineage", "m@1")[1]
    for part in ("Model m@1", "dataset d@1", "source a.csv  sha256 00", "run run-1", "ray 2.60.0", "model child@1"):
        assert part in out
    assert "base model m@1" in run("lineage", "child@1")[1]
    out = run("lineage", "d@1", "--dataset")[1]
    assert "model m@2" in out and "endpoint shop" in out
    found = json.loads(run("lineage", "d@1", "--dataset", "--json")[1])
    assert [child["id"]["name"] for child in found["children"]] == ["child", "m", "m"]
    assert run("lineage", "nobody@1")[0] == 3


def test_what_lineage_names_may_be_deleted(run: Run) -> None:
    assert run("datasets", "delete", "d@1", "--reason", "consent was withdrawn")[0] == 0
    out = run("lineage", "m@2")[1]
    assert "dataset d@1 (deleted)" in out and "source" not in out
    assert "d@1" in run("models", "show", "m@2")[1]
