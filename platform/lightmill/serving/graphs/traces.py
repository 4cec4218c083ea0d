"""One trace over a graph: a span for the whole, and below it those of the endpoints that it calls."""

from __future__ import annotations

from time import perf_counter, time

from lightmill.errors import LightmillError
from lightmill.serving.signals.access_log import Answered
from lightmill.serving.signals.reporting import Worker
from lightmill.serving.signals.tracing import TraceContext, Tracer, otlp_exporter

MOST_GRAPHS = 1024


class GraphSpan:
    """The span of one request through a graph; as a context manager it ends with what happened within."""

    def __init__(self, tracer: Tracer | None, traceparent: bytes | None, name: str, request_id: str) -> None:
        self._tracer = tracer
        self._name, self._id = name, request_id
        self._context: TraceContext | None = tracer.context(traceparent) if tracer is not None else None
        self.traceparent = traceparent if self._context is None else self._context.traceparent

    def __enter__(self) -> GraphSpan:
        self._at, self._started = time(), perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _: object) -> None:
        if self._tracer is None or self._context is None:
            return
        status = 200 if exc is None else exc.status if isinstance(exc, LightmillError) else 500
        answered = Answered(
            at=self._at,
            request_id=self._id,
            caller="",
            method="POST",
            path=f"/v2/models/{self._name}/infer",
            status=status,
            protocol="graph",
            total_s=perf_counter() - self._started,
            bytes_in=0,
            bytes_out=0,
            error=None if kind is None else kind.__name__,
        )
        self._tracer.offer(self._context, answered)


class GraphTraces:
    """Makes spans of graphs and sends them to a collector, if there is one."""

    def __init__(self, url: str = "", ratio: float = 0.0) -> None:
        """Prepare; `ratio` is the share of requests that are traced without their caller asking for it."""
        self._url, self._ratio = url, ratio
        self._tracers: dict[tuple[str, str], Tracer] = {}
        self._worker: Worker | None = None

    def span(self, name: str, version: str, traceparent: bytes | None, request_id: str) -> GraphSpan:
        """Return the span of a request; without a collector it only passes its caller's trace on."""
        return GraphSpan(self._tracer(name, version), traceparent, name, request_id)

    def flush(self) -> None:
        """Send what is queued."""
        for tracer in list(self._tracers.values()):
            tracer.flush()

    def _tracer(self, name: str, version: str) -> Tracer | None:
        if not self._url:
            return None
        if self._worker is None:
            self._worker = Worker(self.flush)
            self._worker.start()
        if (name, version) not in self._tracers:
            if len(self._tracers) >= MOST_GRAPHS:
                self.flush()
                self._tracers.clear()
            self._tracers[name, version] = Tracer(name, version, otlp_exporter(self._url), ratio=self._ratio)
        return self._tracers[name, version]
