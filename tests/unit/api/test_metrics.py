"""Metrics of jobs and of versions through the client, over HTTP, and by the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import lightmill
from lightmill.cli.curves import draw
from lightmill.cli.main import main
from lightmill.errors import NotFoundError, RequestError
from lightmill.records.assets import Provenance
from lightmill.records.jobs import EpochMetrics, Job, JobKind, JobState, Progress, RunMetrics, StepMetrics
from lightmill.sdk import Client, JobBar
from lightmill.training.register import publish_model
from lightmill.training.watching.history import METRICS_FILE, to_parquet
from tests.served import Served, served
from tests.unit.registry.world import World, card

RUN = "train-m-1"
EPOCHS = tuple(
    EpochMetrics(run=RUN, epoch=n, metrics={"loss": 1 / n, "validation_loss": 2 / n}, created="now") for n in (1, 2, 3)
)
STEPS = tuple(
    StepMetrics(
        run=RUN, step=10 * n, epoch=1 + n // 20, metrics={"loss": 2 / n, "rows_per_second": 5000.0}, created="now"
    )
    for n in range(1, 41)
)
HISTORY = RunMetrics(run=RUN, epochs=EPOCHS, steps=STEPS)


def fill(world: World) -> None:
    world.catalog.jobs.create(Job(id=RUN, kind=JobKind.TRAIN, name="m", state=JobState.SUCCEEDED, created="now"))
    for epoch in EPOCHS:
        world.catalog.runs.record_epoch(epoch)
    world.catalog.runs.record_steps(STEPS)
    for files in ({METRICS_FILE: to_parquet(HISTORY)}, {}):
        publish_model(world.registry, "m", {"a": torch.rand(9)}, card(), Provenance(run=RUN), files)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    world = World(tmp_path_factory.mktemp("world"))
    fill(world)
    with served(world) as found:
        yield found


@pytest.fixture
def client(platform: Served) -> Iterator[Client]:
    with lightmill.connect(platform.url, platform.key) as client:
        yield client


def test_steps_of_a_job_come_from_where_one_was(client: Client) -> None:
    assert client.jobs.metrics(RUN) == list(EPOCHS)
    assert client.jobs.steps(RUN) == list(STEPS)
    assert client.jobs.steps(RUN, after=380) == list(STEPS[-2:])
    with pytest.raises(NotFoundError, match="nobody"):
        client.jobs.steps("nobody")


def test_a_job_and_its_version_show_the_same_curves(client: Client, tmp_path: Path) -> None:
    for view in (client.jobs.curves(RUN), client.models.metrics("m@1")):
        assert view.record == HISTORY
        assert view.page.count("<polyline") == 4 and "<script" not in view.page
        assert "<iframe" in view._repr_html_() and "<svg" not in view._repr_html_()
        assert view.save(tmp_path / "page.html").read_text() == view.page
    with pytest.raises(NotFoundError, match=METRICS_FILE):
        client.models.metrics("m@2")


def test_a_figure_has_what_was_asked_for(client: Client) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    figure = client.jobs.curves(RUN).plot()
    assert [[line.get_label() for line in axis.lines] for axis in figure.axes] == [
        ["loss"],
        ["loss", "validation_loss"],
    ]
    matplotlib.pyplot.close(figure)
    with pytest.raises(RequestError, match="'accuracy' was measured; there are: loss, rows_per_second"):
        client.jobs.curves(RUN).plot("accuracy")


def test_watching_a_job_outside_a_notebook_shows_a_bar(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert client.jobs.watch(RUN, timeout_s=30).id == RUN
    assert "train m" in capsys.readouterr().err


def test_a_bar_says_the_loss_and_how_fast_it_goes() -> None:
    import io

    from rich.console import Console

    shown = io.StringIO()
    progress = Progress(
        phase="train",
        done=50,
        total=200,
        unit="steps",
        rate=25.0,
        eta_s=6.0,
        metrics={"loss": 0.25, "rows_per_second": 12345.6},
    )
    job = Job(id="j", kind=JobKind.TRAIN, name="m", state=JobState.RUNNING, progress=progress, started="now")
    with JobBar(Console(file=shown, force_terminal=True, width=200)) as bar:
        bar.show(job, [EpochMetrics(run="j", epoch=1, metrics={"loss": 9.0, "validation_accuracy": 0.5}, created="")])
    for said in ("50/200 steps", "loss 0.2500", "accuracy 0.5000", "12,346 rows/s", "25 steps/s", "6 s left"):
        assert said in shown.getvalue(), said


@pytest.fixture
def run(platform: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("LIGHTMILL_URL", platform.url)
    monkeypatch.setenv("LIGHTMILL_API_KEY", platform.key)
    monkeypatch.setenv("COLUMNS", "160")

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


@pytest.mark.parametrize("words", [("jobs", "metrics", RUN), ("models", "metrics", "m@1")], ids=["job", "version"])
def test_the_command_line_shows_tables_json_plots_and_a_page(run, words: tuple[str, ...], tmp_path: Path) -> None:
    code, out, _ = run(*words)
    assert code == 0 and "validation_loss" in out and "0.66667" in out
    code, out, _ = run(*words, "--steps", "--limit", "2", "--only", "loss")
    assert code == 0 and "400" in out and "380" not in out and "rows_per_second" not in out
    code, out, _ = run(*words, "--json")
    assert code == 0 and RunMetrics.model_validate(json.loads(out)) == HISTORY
    code, out, _ = run(*words, "--steps", "--plot", "--only", "loss")
    assert code == 0 and out.startswith("loss: 0.05\n") and out.count("*") >= 20
    page = tmp_path / "page.html"
    assert run(*words, "--out", str(page))[0] == 0 and "<polyline" in page.read_text()
    assert run(*words, "--out", str(tmp_path))[0] == 2
    code, _, err = run(*words, "--only", "accuracy")
    assert code == 2 and "there are: loss, validation_loss" in err


def test_a_version_without_metrics_and_a_job_that_is_none_are_said_so(run) -> None:
    assert run("models", "metrics", "m@2")[0] == 3
    assert run("jobs", "metrics", "nobody")[0] == 3
    code, out, _ = run("jobs", "watch", RUN, "--json")
    assert code == 0 and json.loads(out)["id"] == RUN


@pytest.mark.parametrize("line", [[(7, 3.0)], [(1, 2.0), (9, 2.0)], [(1, 0.0), (2, 1.0), (3, 0.5)]])
def test_a_plot_of_plain_characters_names_its_ends(line: list[tuple[int, float]]) -> None:
    found = draw("loss", "step", line, width=20, height=4)
    assert len(found) == 1 + 4 + 3
    assert sum(text.count("*") for text in found) == len(line)
    assert f"step {line[0][0]}" in found[-2] and found[-2].endswith(str(line[-1][0]))
