"""Traces: from the HTTP request to the model call, as OpenTelemetry spans sent to a collector.

A request is traced when its `traceparent` (W3C Trace Context, level 1) says that its caller samples it, or, where it
comes without one, for the share that the settings name. Others cost a look-up and a comparison. Spans are made by a
thread when the answer has gone, with the times that were measured, and sent by OTLP over HTTP in its JSON form
(OpenTelemetry protocol 1.x, https://opentelemetry.io/docs/specs/otlp/#otlphttp).
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from lightmill.serving.signals.access_log import Answered

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

QUEUED_MOST = 2048
EXPORT_S = 5.0
NANO = 1_000_000_000
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
_KINDS = {"INTERNAL": 1, "SERVER": 2, "CLIENT": 3, "PRODUCER": 4, "CONSUMER": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """A trace that a request belongs to. `parent_id` is the span of its caller, 0 where it begins here."""

    trace_id: int
    parent_id: int
    span_id: int

    @property
    def id(self) -> str:
        """The trace's id as logs and headers write it."""
        return f"{self.trace_id:032x}"

    @property
    def traceparent(self) -> bytes:
        """The header for calls that this request makes, and for its answer."""
        return b"00-%032x-%016x-01" % (self.trace_id, self.span_id)


def parse_traceparent(value: bytes) -> tuple[int, int, bool] | None:
    """Return trace id, the caller's span id, and whether it is sampled; None for what the standard calls invalid."""
    found = _TRACEPARENT.fullmatch(value)
    if not found or found[1] == b"ff" or (found[1] == b"00" and found[5] is not None):
        return None
    trace_id, parent_id = int(found[2], 16), int(found[3], 16)
    if not trace_id or not parent_id:
        return None
    return trace_id, parent_id, bool(int(found[4], 16) & _SAMPLED)


class Tracer:
    """Decides which requests are traced, and turns those into spans.

    Attributes:
        dropped: How many traces did not fit the queue.
    """

    def __init__(
        self,
        endpoint: str,
        version: str,
        exporter: SpanExporter,
        *,
        ratio: float = 0.0,
        most: int = QUEUED_MOST,
        chance: Callable[[], float] = random.random,
        bits: Callable[[int], int] = random.getrandbits,
    ) -> None:
        """Trace one replica; `ratio` is the share of the requests that come without a `traceparent`."""
        self._endpoint, self._version = endpoint, version
        self._exporter = exporter
        self._ratio = ratio
        self._most = most
        self._chance, self._bits = chance, bits
        self._queue: deque[tuple[TraceContext, Answered]] = deque()
        self.dropped = 0

    def context(self, traceparent: bytes | None) -> TraceContext | None:
        """Return the trace of a request; None if it is not traced."""
        if traceparent is not None:
            found = parse_traceparent(traceparent)
            if found is not None:
                trace_id, parent_id, sampled = found
                return self._made(trace_id, parent_id) if sampled else None
        if self._ratio and self._chance() < self._ratio:
            return self._made(self._bits(128) or 1, 0)
        return None

    def _made(self, trace_id: int, parent_id: int) -> TraceContext:
        return TraceContext(trace_id=trace_id, parent_id=parent_id, span_id=self._bits(64) or 1)

    def offer(self, context: TraceContext, answered: Answered) -> None:
        """Queue the spans of a request, if there is room."""
        if len(self._queue) >= self._most:
            self.dropped += 1
        else:
            self._queue.append((context, answered))

    def flush(self) -> int:
        """Send what is queued; return how many traces."""
        waiting: list[tuple[TraceContext, Answered]] = []
        while self._queue:
            waiting.append(self._queue.popleft())
        spans = [span for context, answered in waiting for span in self._spans(context, answered)]
        if spans:
            self._exporter.export(spans)
        return len(waiting)

    def close(self) -> None:
        """Send the rest."""
        self.flush()
        self._exporter.shutdown()

    def _spans(self, context: TraceContext, found: Answered) -> list[ReadableSpan]:
        """Return the request's span, then one for each phase that it reached, in their order."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        def named(id: int) -> SpanContext:
            return SpanContext(context.trace_id, id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

        start = round(found.at * 1e6) * 1000  # a float holds microseconds since 1970, and no more
        resource = Resource({"service.name": "lightmill", "service.version": self._version})
        own = named(context.span_id)
        caller = named(context.parent_id) if context.parent_id else None
        failed = Status(StatusCode.ERROR, found.error) if found.status >= 500 else Status(StatusCode.UNSET)
        spans = [
            ReadableSpan(
                name=f"{found.method} {self._endpoint}",
                context=own,
                parent=caller,
                resource=resource,
                kind=SpanKind.SERVER,
                status=failed,
                attributes={
                    "http.request.method": found.method,
                    "http.response.status_code": found.status,
                    "lightmill.endpoint": self._endpoint,
                    "lightmill.version": self._version,
                    "lightmill.request": found.request_id,
                    "lightmill.protocol": found.protocol,
                    "lightmill.rows": found.rows,
                },
                start_time=start,
                end_time=start + int(found.total_s * NANO),
            )
        ]
        begins = start
        for name, seconds in (
            ("queue", found.queue_s),
            ("batch_wait", found.batch_wait_s),
            ("compute", found.compute_s),
        ):
            ends = begins + int(seconds * NANO)
            if found.rows:
                spans.append(
                    ReadableSpan(
                        name=name,
                        context=named(self._bits(64) or 1),
                        parent=own,
                        resource=resource,
                        kind=SpanKind.INTERNAL,
                        start_time=begins,
                        end_time=ends,
                    )
                )
            begins = ends
        return spans


def otlp_exporter(url: str, post: Callable[..., Any] = httpx.post) -> SpanExporter:
    """Return what sends spans to a collector, such as http://localhost:4318/v1/traces."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class OtlpJson(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            try:
                answer = post(url, json=otlp_json(spans), timeout=EXPORT_S)
            except httpx.HTTPError as exc:
                raise OSError(f"No collector of traces answers at {url}: {exc or type(exc).__name__}") from exc
            if answer.status_code >= 400:
                raise OSError(f"The collector of traces at {url} answered {answer.status_code}")
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            return None

    return OtlpJson()


def otlp_json(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    """Return spans of one resource as OTLP writes them in JSON: ids in hex, 64-bit numbers as text."""
    resource = spans[0].resource.attributes if spans else {}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": [_attribute(*each) for each in resource.items()]},
                "scopeSpans": [{"scope": {"name": "lightmill.serving"}, "spans": [_span(each) for each in spans]}],
            }
        ]
    }


def _span(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context()
    found: dict[str, Any] = {
        "traceId": f"{context.trace_id:032x}" if context else "",
        "spanId": f"{context.span_id:016x}" if context else "",
        "name": span.name,
        "kind": _KINDS[span.kind.name],
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "attributes": [_attribute(*each) for each in (span.attributes or {}).items()],
        "status": {"code": 2, "message": span.status.description or ""} if not span.status.is_ok else {},
    }
    if span.parent:
        found["parentSpanId"] = f"{span.parent.span_id:016x}"
    return found


def _attribute(key: str, value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"key": key, "value": {"boolValue": value}}
    if isinstance(value, int):
        return {"key": key, "value": {"intValue": str(value)}}
    if isinstance(value, float):
        return {"key": key, "value": {"doubleValue": value}}
    return {"key": key, "value": {"stringValue": str(value)}}
