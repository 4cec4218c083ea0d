"""Metrics as a sealed Parquet file, and as a page."""

from __future__ import annotations

import html.parser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.records.assets import Provenance
from lightmill.records.jobs import EpochMetrics, RunMetrics, StepMetrics
from lightmill.training.register import publish_model
from lightmill.training.watching.history import METRICS_FILE, from_parquet, read_history, to_parquet
from lightmill.training.watching.page import DRAWN_MAX, metrics_page, thinned
from tests.unit.registry.world import World, card

names = st.text(min_size=1, max_size=8) | st.sampled_from(["loss", "epoch", "step", "kind", "created", "epoch_"])
metrics = st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False), max_size=4)
epochs = st.builds(EpochMetrics, run=st.just("r"), epoch=st.integers(1, 99), metrics=metrics, created=st.just("now"))
steps = st.builds(
    StepMetrics,
    run=st.just("r"),
    step=st.integers(1, 2**40),
    epoch=st.integers(1, 99),
    metrics=metrics,
    created=st.just("now"),
)
histories = st.builds(
    RunMetrics, run=st.just("r"), epochs=st.lists(epochs, max_size=4), steps=st.lists(steps, max_size=4)
)
few = settings(max_examples=30, deadline=None)


def some(count: int = 40) -> RunMetrics:
    return RunMetrics(
        run="r",
        epochs=tuple(
            EpochMetrics(run="r", epoch=n, metrics={"loss": 1 / n, "validation_loss": 2 / n}, created="now")
            for n in (1, 2, 3)
        ),
        steps=tuple(
            StepMetrics(run="r", step=10 * n, epoch=1, metrics={"loss": 1 / n}, created="now")
            for n in range(1, count + 1)
        ),
    )


@few
@given(histories)
def test_what_is_written_is_read_whatever_metrics_are_called(history: RunMetrics) -> None:
    assert from_parquet(to_parquet(history)) == history


def test_any_reader_of_parquet_finds_a_column_for_each_metric() -> None:
    table = pq.read_table(pa.BufferReader(to_parquet(some())))
    assert table.column_names == ["kind", "epoch", "step", "created", "loss", "validation_loss"]
    assert table.column("kind").to_pylist() == ["epoch"] * 3 + ["step"] * 40
    assert table.column("validation_loss").null_count == 40
    assert table.column("step").to_pylist()[2:5] == [None, 10, 20]


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"no parquet at all"])
def test_what_is_no_such_file_is_refused(damage: bytes) -> None:
    with pytest.raises(IntegrityError, match=METRICS_FILE):
        from_parquet(damage)


def test_another_parquet_file_is_refused() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), sink)
    with pytest.raises(IntegrityError, match=METRICS_FILE):
        from_parquet(sink.getvalue().to_pybytes())


def test_a_version_holds_them_sealed_and_one_without_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    files = {METRICS_FILE: to_parquet(some())}
    first = publish_model(world.registry, "m", {"a": torch.rand(9)}, card(), Provenance(), files)
    second = publish_model(world.registry, "m", {"a": torch.rand(9)}, card(), Provenance())
    assert read_history(world.registry.open(first.id)) == some()
    assert all(b"validation_loss" not in path.read_bytes() for path in world.root.rglob("*") if path.is_file())
    with pytest.raises(NotFoundError, match=f"m@2 has no {METRICS_FILE}"):
        read_history(world.registry.open(second.id))


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)


def test_a_page_draws_each_metric_of_steps_and_families_of_epochs_and_runs_no_script() -> None:
    page = metrics_page(some(), "<b>run</b>")
    tags = Tags()
    tags.feed(page)
    assert tags.found.count("svg") == 2 and tags.found.count("polyline") == 3
    assert "script" not in tags.found and "b" not in tags.found
    assert "default-src 'none'" in page and "&lt;b&gt;run" in page
    assert "Nothing was measured yet" in metrics_page(RunMetrics(), "r")


@few
@given(histories)
def test_a_page_can_be_made_of_anything(history: RunMetrics) -> None:
    tags = Tags()
    page = metrics_page(history, "r")
    tags.feed(page)
    assert "script" not in tags.found
    assert all("n" not in drawn.partition('"')[0] for drawn in page.split('points="')[1:]), "a number overflowed"


@few
@given(st.integers(1, 2000))
def test_a_long_line_is_drawn_by_means(count: int) -> None:
    line = [(float(n), 3.0 * n) for n in range(count)]
    found = thinned(line)
    assert len(found) == min(count, DRAWN_MAX)
    assert all(y == pytest.approx(3 * x) for x, y in found)
    assert [x for x, _ in found] == sorted(x for x, _ in found)
