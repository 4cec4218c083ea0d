"""From a traceparent to spans at a collector that listens on a real port."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lightmill.serving.signals.tracing import Tracer, otlp_exporter, parse_traceparent
from tests.unit.serving.signals.test_access_log import answered

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{PARENT}-01".encode()


@pytest.mark.parametrize(
    "value",
    [
        b"", b"00", SAMPLED.upper(), SAMPLED[:-1], SAMPLED + b"-more", b"ff" + SAMPLED[2:],
        b"00-" + b"0" * 32 + SAMPLED[35:], f"00-{TRACE}-{'0' * 16}-01".encode(), b" " + SAMPLED,
    ],
)  # fmt: skip
def test_what_the_standard_calls_invalid_is_no_trace(value: bytes) -> None:
    assert parse_traceparent(value) is None


def test_a_traceparent_is_read_also_of_a_later_version() -> None:
    wanted = (int(TRACE, 16), int(PARENT, 16))
    assert parse_traceparent(SAMPLED) == (*wanted, True)
    assert parse_traceparent(SAMPLED[:-2] + b"02") == (*wanted, False)
    assert parse_traceparent(b"01" + SAMPLED[2:] + b"-what-ever") == (*wanted, True)


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_noise_is_no_trace(value: bytes) -> None:
    assert parse_traceparent(value) is None


def tracer(**options: Any) -> tuple[Tracer, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    return Tracer("digits", "4", exporter, **options), exporter


def test_the_caller_decides_and_without_one_the_share_does() -> None:
    chances = iter([0.05, 0.15])
    found, _ = tracer(ratio=0.1, chance=lambda: next(chances))
    assert found.context(SAMPLED[:-2] + b"00") is None
    context = found.context(SAMPLED)
    assert context is not None and context.id == TRACE
    assert context.traceparent.startswith(f"00-{TRACE}-".encode()) and context.traceparent != SAMPLED
    assert [found.context(None) is None, found.context(b"nonsense") is None] == [False, True]
    assert tracer()[0].context(None) is None


def test_a_request_is_a_span_with_one_for_each_phase() -> None:
    found, exporter = tracer()
    context = found.context(SAMPLED)
    assert context is not None
    found.offer(context, answered(batch_wait_s=0.001))
    assert found.flush() == 1
    request, *phases = exporter.get_finished_spans()
    assert request.parent is not None and f"{request.parent.span_id:016x}" == PARENT
    assert [span.name for span in phases] == ["queue", "batch_wait", "compute"]
    own = request.get_span_context()
    assert own is not None and all(span.parent == own for span in phases)
    assert request.start_time == phases[0].start_time == 1_900_000_000_250_000_000
    assert [span.end_time for span in phases[:2]] == [span.start_time for span in phases[1:]]
    assert "00112233" not in json.dumps(dict(request.attributes or {}))


def test_a_request_that_never_reached_the_model_has_one_span() -> None:
    found, exporter = tracer()
    context = found.context(SAMPLED)
    assert context is not None
    found.offer(context, answered(status=500, rows=0, error="LightmillError"))
    found.flush()
    (span,) = exporter.get_finished_spans()
    assert span.status.description == "LightmillError"


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    found, _ = tracer(most=2)
    context = found.context(SAMPLED)
    assert context is not None
    for _ in range(5):
        found.offer(context, answered())
    assert (found.flush(), found.dropped) == (2, 3)


class Collector(ThreadingHTTPServer):
    status = 200
    bodies: list[dict[str, Any]]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(self.server.status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        return


def test_a_collector_is_sent_otlp_in_json_and_its_refusal_is_an_error_of_the_worker() -> None:
    with Collector(("127.0.0.1", 0), _Handler) as server:
        server.bodies = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            found = Tracer("digits", "4", otlp_exporter(f"http://127.0.0.1:{server.server_port}/v1/traces"))
            context = found.context(SAMPLED)
            assert context is not None
            found.offer(context, answered())
            found.flush()
            server.status = 400
            found.offer(context, answered())
            with pytest.raises(OSError, match="answered 400"):
                found.flush()
        finally:
            server.shutdown()
            thread.join()
    resource = server.bodies[0]["resourceSpans"][0]
    assert {"key": "service.name", "value": {"stringValue": "lightmill"}} in resource["resource"]["attributes"]
    spans = resource["scopeSpans"][0]["spans"]
    assert [span["traceId"] for span in spans] == [TRACE] * 4
    assert spans[0]["parentSpanId"] == PARENT and spans[1]["parentSpanId"] == spans[0]["spanId"]
    assert spans[0]["kind"] == 2 and spans[0]["startTimeUnixNano"] == "1900000000250000000"


def test_no_collector_is_an_error_of_the_worker() -> None:
    found = Tracer("digits", "4", otlp_exporter("http://127.0.0.1:9/v1/traces"))
    context = found.context(SAMPLED)
    assert context is not None
    found.offer(context, answered())
    with pytest.raises(OSError, match="No collector"):
        found.flush()
