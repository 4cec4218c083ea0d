"""All signals of one replica behind two calls: `begin` when a request comes, `finish` when its answer has gone."""

from __future__ import annotations

from collections.abc import Callable

from lightmill.records.logs import LogSpec
from lightmill.serving.board import Board
from lightmill.serving.headers import RequestIds
from lightmill.serving.signals.access_log import AccessLog, Answered, Write
from lightmill.serving.signals.predictions import PredictionLog
from lightmill.serving.signals.recorder import Recorder
from lightmill.serving.signals.reporting import Reporter, Worker
from lightmill.serving.signals.tracing import TraceContext, Tracer


class Signals:
    """What one replica tells.

    Attributes:
        recorder: Counts and latencies.
        predictions: The prediction log, if the endpoint has one: ask `wants()`, then `offer()`.
        ids: Names requests.
        more_dropped: Gives what other logs of this replica dropped, by log.
    """

    def __init__(
        self,
        endpoint: str,
        version: str,
        replica: str,
        *,
        log: LogSpec = LogSpec(),  # noqa: B008 - a frozen record
        board: Board | None = None,
        tracer: Tracer | None = None,
        predictions: PredictionLog | None = None,
        write: Write | None = None,
    ) -> None:
        """Prepare; nothing is written before `start`.

        Args:
            endpoint: What is served.
            version: The number of the model's version.
            replica: A name of this replica that no other has.
            log: Which logs it keeps.
            board: Where measurements go; without one they stay here.
            tracer: Makes spans, where there is a collector for them.
            predictions: Keeps a sample of rows and answers.
            write: Takes lines of the access log; standard error if not given.
        """
        self.recorder = Recorder(endpoint, version, replica)
        self.predictions = predictions
        self.ids = RequestIds()
        self.more_dropped: dict[str, Callable[[], int]] = {}
        self._access = AccessLog(endpoint, version, log.access, write=write) if log.access else None
        self._tracer = tracer
        self._reporter = Reporter(self.recorder, board, self.dropped) if board else None
        steps: list[Callable[[], object]] = []
        if self._access:
            steps.append(self._access.flush)
        if self._reporter:
            steps.append(self._reporter.step)
        if tracer:
            steps.append(tracer.flush)
        if predictions:
            steps.append(predictions.flush)
        self._worker = Worker(*steps)

    def start(self) -> None:
        """Begin to write."""
        self._worker.start()

    def trace(self, traceparent: bytes | None) -> TraceContext | None:
        """Return the trace of a request with this header; None if it is not traced."""
        return self._tracer.context(traceparent) if self._tracer is not None else None

    def finish(self, answered: Answered, context: TraceContext | None = None, tokens: int = 0) -> None:
        """Take note of an answered request, good or bad."""
        recorder = self.recorder
        recorder.request(answered.status, answered.total_s, answered.protocol, answered.error)
        if answered.rows:
            recorder.phases(answered.queue_s, answered.batch_wait_s, answered.compute_s, answered.rows, tokens)
        if self._access is not None:
            self._access.offer(answered)
        if self._reporter is not None and answered.caller:
            self._reporter.seen[answered.caller] = answered.at
        if context is not None and self._tracer is not None:
            self._tracer.offer(context, answered)

    def traced(self, answered: Answered, context: TraceContext) -> None:
        """Take note of the trace of a request that is counted already."""
        if self._tracer is not None:
            self._tracer.offer(context, answered)

    def dropped(self) -> dict[str, int]:
        """Return how much each log dropped."""
        found = {"access": self._access.dropped if self._access else 0}
        if self._tracer:
            found["traces"] = self._tracer.dropped
        if self.predictions:
            found["predictions"] = self.predictions.dropped
        for log, dropped in self.more_dropped.items():
            found[log] = dropped()
        return found

    def close(self) -> None:
        """End, with the rest written."""
        self._worker.close()
        if self.predictions is not None:
            self.predictions.flush(everything=True)
        if self._tracer is not None:
            self._tracer.close()
