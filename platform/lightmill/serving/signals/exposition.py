"""Metrics as text for Prometheus (text exposition format 0.0.4). The names are promised: dashboards are made of them.

docs/signals.md lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lightmill.records.endpoints import Endpoint, EndpointState
from lightmill.records.signals import Distribution, ReplicaSignals, TargetCounts

_KINDS = {
    "lightmill_requests_total": ("counter", "Requests answered."),
    "lightmill_errors_total": ("counter", "Requests answered with an error, by its class."),
    "lightmill_request_seconds": ("histogram", "Time of a request by phase."),
    "lightmill_batch_rows": ("histogram", "Rows that the model computed together."),
    "lightmill_rows_total": ("counter", "Rows predicted."),
    "lightmill_tokens_total": ("counter", "Tokens read and written, for models of text."),
    "lightmill_requests_running": ("gauge", "Requests being answered."),
    "lightmill_log_dropped_total": ("counter", "Entries of a log that did not fit its queue."),
    "lightmill_traffic_requests_total": ("counter", "Requests by the version that they were sent to."),
    "lightmill_traffic_fallbacks_total": ("counter", "Requests that the stable version answered for a candidate."),
    "lightmill_traffic_seconds": ("histogram", "Time of a version's answer, without the way to it."),
    "lightmill_traffic_shadows_total": ("counter", "Copies for shadows, by what became of them."),
    "lightmill_endpoint_replicas": ("gauge", "Replicas that run."),
    "lightmill_endpoint_ready": ("gauge", "Whether the endpoint answers with what it should."),
}


def render(replicas: Iterable[ReplicaSignals], endpoints: Iterable[Endpoint] = ()) -> str:
    """Return the metrics of all replicas and endpoints."""
    lines: dict[str, list[str]] = {name: [] for name in _KINDS}
    for replica in replicas:
        for name, line in _of_replica(replica):
            lines[name].append(line)
    for endpoint in endpoints:
        label = _labels(endpoint=endpoint.name)
        lines["lightmill_endpoint_replicas"].append(f"lightmill_endpoint_replicas{label} {endpoint.replicas}")
        ready = int(endpoint.state is EndpointState.READY)
        lines["lightmill_endpoint_ready"].append(f"lightmill_endpoint_ready{label} {ready}")
    found: list[str] = []
    for name, (kind, help) in _KINDS.items():
        if lines[name]:
            found += [f"# HELP {name} {help}", f"# TYPE {name} {kind}", *lines[name]]
    return "".join(f"{line}\n" for line in found)


def _of_replica(found: ReplicaSignals) -> Iterator[tuple[str, str]]:
    own = {"endpoint": found.endpoint, "version": found.version, "replica": found.replica}

    def sample(name: str, value: float, **labels: str) -> tuple[str, str]:
        return name, f"{name}{_labels(**own, **labels)} {value}"

    for protocol, status, count in found.requests:
        yield sample("lightmill_requests_total", count, protocol=protocol, status=str(status))
    for error, count in sorted(found.errors.items()):
        yield sample("lightmill_errors_total", count, error=error)
    for phase, values in found.seconds.items():
        yield from _histogram("lightmill_request_seconds", values, {**own, "phase": phase})
    yield from _histogram("lightmill_batch_rows", found.batches, own)
    yield sample("lightmill_rows_total", found.rows)
    if found.tokens:
        yield sample("lightmill_tokens_total", found.tokens)
    yield sample("lightmill_requests_running", found.running)
    for log, count in sorted(found.dropped.items()):
        yield sample("lightmill_log_dropped_total", count, log=log)
    for counts in found.traffic.totals if found.traffic else ():
        yield from _of_traffic(counts, own)


def _of_traffic(found: TargetCounts, own: dict[str, str]) -> Iterator[tuple[str, str]]:
    own = {**own, "candidate": found.name, "candidate_version": found.version}

    def sample(name: str, value: float, **labels: str) -> tuple[str, str]:
        return name, f"{name}{_labels(**own, **labels)} {value}"

    copies = {"differed": found.differed, "same": found.shadows - found.differed}
    copies |= {"failed": found.shadow_errors, "dropped": found.shadow_dropped}
    if found.requests:
        yield sample("lightmill_traffic_requests_total", found.requests - found.errors, outcome="answered")
        yield sample("lightmill_traffic_requests_total", found.errors, outcome="failed")
        yield sample("lightmill_traffic_fallbacks_total", found.fallbacks)
        if found.seconds:
            yield from _histogram("lightmill_traffic_seconds", found.seconds, own)
    for outcome, count in copies.items():
        if any(copies.values()):
            yield sample("lightmill_traffic_shadows_total", count, outcome=outcome)


def _histogram(name: str, values: Distribution, labels: dict[str, str]) -> Iterator[tuple[str, str]]:
    below = 0
    for bound, count in zip((*values.bounds, float("inf")), values.counts, strict=True):
        below += count
        end = "+Inf" if bound == float("inf") else f"{bound:g}"
        yield name, f"{name}_bucket{_labels(**labels, le=end)} {below}"
    yield name, f"{name}_sum{_labels(**labels)} {values.total:.9g}"
    yield name, f"{name}_count{_labels(**labels)} {below}"


def _labels(**labels: str) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return "{" + inside + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
