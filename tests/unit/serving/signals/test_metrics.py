"""Counts of a replica, their way over the board, and the text that Prometheus reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from lightmill.access import mint_key
from lightmill.catalog import Catalog
from lightmill.control.metrics import GONE_S, MetricsReader
from lightmill.records.base import iso_of
from lightmill.records.endpoints import EndpointState
from lightmill.records.specs import EndpointSpec
from lightmill.serving.board import MemoryBoard
from lightmill.serving.signals.exposition import render
from lightmill.serving.signals.recorder import PHASES, ROWS, SECONDS, Recorder
from lightmill.serving.signals.reporting import HEARTBEAT_S, Reporter, Worker

NAMES = {
    "lightmill_requests", "lightmill_errors", "lightmill_request_seconds", "lightmill_batch_rows", "lightmill_rows",
    "lightmill_tokens", "lightmill_requests_running", "lightmill_log_dropped", "lightmill_endpoint_replicas",
    "lightmill_endpoint_ready",
}  # fmt: skip


def recorded() -> Recorder:
    recorder = Recorder("digits", "4", "r1")
    for total in (0.0004, 0.003, 20.0):
        recorder.request(200, total)
        recorder.phases(0.0, 0.001, total / 2, rows=3, tokens=5)
    recorder.request(429, 0.0001, "tensorflow", "TooManyRequestsError")
    recorder.batch(9)
    recorder.running = 2
    return recorder


def parsed(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples by name, then by the values of their labels."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_the_names_are_the_promised_ones(tmp_path: Path) -> None:
    recorder = recorded()
    replica = recorder.snapshot().model_copy(update={"dropped": {"access": 3}})
    with Catalog.open(f"sqlite:///{tmp_path / 'c.db'}") as catalog:
        catalog.migrate()
        catalog.endpoints.put(EndpointSpec(name="digits", model="m"))
        text = render([replica], catalog.endpoints.list())
    assert {family.name for family in text_string_to_metric_families(text)} == NAMES


def test_what_was_recorded_is_what_is_read() -> None:
    found = parsed(render([recorded().snapshot()]))
    own = ("digits", "4", "r1")
    assert found["lightmill_requests_total"] == {(*own, "oip", "200"): 3, (*own, "tensorflow", "429"): 1}
    assert found["lightmill_errors_total"] == {(*own, "TooManyRequestsError"): 1}
    assert found["lightmill_rows_total"] == {own: 9} and found["lightmill_tokens_total"] == {own: 15}
    assert found["lightmill_requests_running"] == {own: 2}
    buckets = found["lightmill_request_seconds_bucket"]
    assert buckets[(*own, "total", "0.0005")] == 2  # the fast one and the refused one
    assert buckets[(*own, "total", "0.005")] == 3
    assert buckets[(*own, "total", "10")] == 3 and buckets[(*own, "total", "+Inf")] == 4
    assert found["lightmill_request_seconds_sum"][(*own, "compute")] == pytest.approx(20.0034 / 2)
    assert found["lightmill_request_seconds_count"][(*own, "queue")] == 3
    assert found["lightmill_batch_rows_bucket"][(*own, "16")] == 1 == found["lightmill_batch_rows_sum"][own] / 9


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_histogram_counts_every_value_once_and_in_order(values: list[float]) -> None:
    recorder = Recorder("e", "1", "r")
    for value in values:
        recorder.request(200, value)
    counts = recorder.snapshot().seconds["total"].counts
    assert sum(counts) == len(values)
    for place, bound in enumerate(SECONDS):
        assert sum(counts[: place + 1]) == sum(value <= bound for value in values)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 100_000), st.text(max_size=20), st.text(max_size=20)), max_size=200))
def test_no_client_makes_more_series_than_there_are(requests: list[tuple[int, str, str]]) -> None:
    recorder = Recorder("e", "1", "r")
    for status, protocol, error in requests:
        recorder.request(status % 4 + 200, 0.1, protocol, error)
    found = recorder.snapshot()
    assert len(found.requests) <= 4 * 10 and len(found.errors) <= 20
    assert sum(count for _, _, count in found.requests) == len(requests)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_a_label_may_hold_anything(name: str) -> None:
    text = render([Recorder("e", name, "r").snapshot()])
    assert {labels[1] for labels in parsed(text)["lightmill_rows_total"]} == {name}


def test_phases_and_classes_are_frozen() -> None:
    """A change here breaks dashboards and alerts: it belongs in the changelog."""
    assert PHASES == ("queue", "batch_wait", "compute", "total")
    assert (SECONDS[0], SECONDS[-1], len(SECONDS), ROWS[-1], len(ROWS)) == (0.0005, 10.0, 14, 1024.0, 11)


# -- the way to the control plane ---------------------------------------------------------------


def test_a_replica_writes_while_something_changes_and_else_as_a_sign_of_life() -> None:
    now, recorder, board = [1000.0], recorded(), MemoryBoard()
    reporter = Reporter(recorder, board, wall=lambda: now[0])
    assert [reporter.step(), reporter.step()] == [True, False]
    recorder.request(200, 0.1)
    assert [reporter.step(), reporter.step()] == [True, False]
    now[0] += HEARTBEAT_S
    assert reporter.step()
    assert board.names("signals/") == ["signals/digits/r1"]


def test_the_control_plane_shows_living_replicas_and_forgets_the_others(tmp_path: Path) -> None:
    now, board = [1000.0], MemoryBoard()
    with Catalog.open(f"sqlite:///{tmp_path / 'c.db'}") as catalog:
        catalog.migrate()
        catalog.endpoints.put(EndpointSpec(name="digits", model="m"))
        catalog.endpoints.observe("digits", state=EndpointState.READY, version=None, replicas=2, message="")
        reader = MetricsReader(catalog, board, wall=lambda: now[0])
        Reporter(Recorder("digits", "4", "old"), board, wall=lambda: now[0]).step()
        board.put("signals/digits/broken", b"{")
        now[0] += GONE_S
        Reporter(recorded(), board, wall=lambda: now[0]).step()
        assert {labels[2] for labels in parsed(reader.text())["lightmill_rows_total"]} == {"old", "r1"}
        now[0] += 1
        found = parsed(reader.text())
        assert {labels[2] for labels in found["lightmill_rows_total"]} == {"r1"}
        assert found["lightmill_endpoint_replicas"] == {("digits",): 2}
        assert found["lightmill_endpoint_ready"] == {("digits",): 1}
        assert board.names("signals/") == ["signals/digits/r1"]


def test_the_last_use_of_keys_reaches_the_catalog(tmp_path: Path) -> None:
    board = MemoryBoard()
    with Catalog.open(f"sqlite:///{tmp_path / 'c.db'}") as catalog:
        catalog.migrate()
        _, key = mint_key("ci")
        catalog.keys.add(key)
        for replica, at in (("a", 500.0), ("b", 900.0)):
            reporter = Reporter(Recorder("e", "1", replica), board, wall=lambda: 1000.0)
            reporter.seen = {key.id: at, "jwt:issuer:ada": at}
            reporter.step()
        reader = MetricsReader(catalog, board, wall=lambda: 1000.0)
        reader.step()
        reader.step()
        found = catalog.keys.by_id(key.id)
        assert found is not None and found.last_used == iso_of(900.0)


def test_a_step_that_fails_stops_no_other_and_is_tried_again() -> None:
    done: list[str] = []

    def fails() -> None:
        done.append("fails")
        raise OSError("the disk is full")

    worker = Worker(fails, lambda: done.append("goes on"))
    worker.step()
    worker.step()
    worker.start()
    worker.close()
    assert done[:4] == ["fails", "goes on", "fails", "goes on"] and done[-1] == "goes on"
