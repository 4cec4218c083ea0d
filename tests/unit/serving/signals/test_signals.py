"""All signals of a replica together, as its service calls them."""

from __future__ import annotations

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lightmill.records.logs import LogSpec
from lightmill.records.signals import ReplicaSignals
from lightmill.serving.board import MemoryBoard
from lightmill.serving.signals.signals import Signals
from lightmill.serving.signals.tracing import Tracer
from tests.unit.serving.signals.test_access_log import Lines, answered
from tests.unit.serving.signals.test_tracing import SAMPLED, TRACE


def test_one_call_reaches_every_signal() -> None:
    lines, board, exporter = Lines(), MemoryBoard(), InMemorySpanExporter()
    signals = Signals("digits", "4", "r1", board=board, tracer=Tracer("digits", "4", exporter), write=lines)
    signals.start()
    context = signals.trace(SAMPLED)
    assert context is not None and context.id == TRACE
    signals.finish(answered(trace_id=context.id), context, tokens=7)
    signals.finish(answered(status=401, rows=0, caller="", error="AuthenticationError"))
    signals.close()
    found = ReplicaSignals.model_validate_json(board.get("signals/digits/r1") or b"")
    assert set(found.requests) == {("oip", 200, 1), ("oip", 401, 1)} and found.tokens == 7
    assert list(found.seen) == ["00112233"] and found.dropped == {"access": 0, "traces": 0}
    assert [line["status"] for line in lines.json] == [200, 401] and lines.json[0]["trace"] == TRACE


def test_a_replica_without_logs_only_counts() -> None:
    signals = Signals("digits", "4", "r1", log=LogSpec(access=0.0))
    signals.finish(answered())
    assert signals.trace(SAMPLED) is None
    assert signals.recorder.snapshot().rows == 3 and signals.dropped() == {"access": 0}
    signals.close()
