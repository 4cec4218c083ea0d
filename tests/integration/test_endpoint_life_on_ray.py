"""An endpoint's life on a whole platform behind TLS: traced, spread by rule, scaled by policies, to zero and back."""

from __future__ import annotations

import json
import secrets
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from lightmill.registry import Registry
from lightmill.settings import Settings
from lightmill.wiring.platform import open_platform
from tests.integration.test_traffic_on_ray import publish
from tests.platforms import TestPlatform, temporary_platform
from tests.unit.registry.world import MODEL

pytestmark = pytest.mark.slow

ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
WAIT_S = 120
ASKED = 60


@contextmanager
def collector() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An OTLP collector: the spans that came."""
    spans: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
            for resource in sent["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    spans.extend(scope["spans"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
    finally:
        server.shutdown()
        thread.join()


def until(holds: Callable[[], bool], said: Callable[[], object], seconds: float = WAIT_S) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, said()
        time.sleep(0.3)


def processes(platform: TestPlatform) -> list[int]:
    """Return the processes of the endpoint's replicas; Ray gives them their title."""
    return [one.pid for one in platform.processes() if "ServeReplica:endpoint-e" in "".join(one.cmdline()[:1])]


class Client:
    """Asks the endpoint over TLS, and believes the platform's own certificate only."""

    def __init__(self, platform: TestPlatform) -> None:
        trust = ssl.create_default_context(cafile=str(platform.home / "keys" / "tls.crt"))
        url = platform.url.replace("http://", "https://")
        self.http = httpx.Client(base_url=url, verify=trust, headers={"X-API-Key": platform.key}, timeout=WAIT_S)

    def infer(self, **headers: str) -> httpx.Response:
        return self.http.post("/v2/models/e/infer", json=ROW, headers=headers)

    def deploy(self, platform: TestPlatform, registry: Registry, **spec: Any) -> None:
        path = platform.home / "endpoint.yaml"
        path.write_text(json.dumps({"name": "e", "model": "m@champion", "batching": {"max_wait_ms": 0}, **spec}))
        platform.lightmill("deploy", path)

    def replicas(self) -> int:
        return self.http.get("/api/v1/endpoints/e").json()["replicas"]

    def answered(self) -> Counter[str]:
        """Return how many requests each replica says that it answered."""
        found: Counter[str] = Counter()
        for line in self.http.get("/api/v1/metrics").text.splitlines():
            if line.startswith("lightmill_requests_total{"):
                labels, _, count = line.partition("{")[2].rpartition("} ")
                named = dict(part.split("=", 1) for part in labels.split(","))
                if named["endpoint"] == '"e"':
                    found[named["replica"]] += int(float(count))
        return found


def test_an_endpoint_is_traced_spread_and_scaled_behind_tls() -> None:
    with collector() as (url, spans), temporary_platform() as made:
        platform = TestPlatform(made.environment | {"LIGHTMILL_TLS": "generate", "LIGHTMILL_TRACE_URL": url}, made.home)
        platform.lightmill("up")
        registry = open_platform(Settings(home=platform.home)).registry
        publish(registry, [8], 1)
        registry.set_alias(MODEL, "m", "champion", 1)
        client = Client(platform)
        client.deploy(platform, registry)
        only_tls_is_spoken(platform, client)
        a_request_is_traced(client, spans)
        replicas_follow_the_clock_and_share_in_turn(platform, client, registry)
        the_last_replica_goes_and_comes_back(platform, client, registry)
        slow_answers_bring_replicas(platform, client, registry)


def only_tls_is_spoken(platform: TestPlatform, client: Client) -> None:
    assert client.infer().status_code == 200
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(str(client.http.base_url), timeout=30)
    try:
        plain = httpx.get(platform.url, timeout=30).status_code
    except httpx.HTTPError:
        plain = 0
    assert plain in (0, 400)
    assert platform.lightmill("status", "--json").json()["endpoints"] or platform.lightmill("endpoints", "list").out


def a_request_is_traced(client: Client, spans: list[dict[str, Any]]) -> None:
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    assert client.infer(traceparent=f"00-{trace}-{parent}-01").status_code == 200
    assert client.infer(traceparent=f"00-{secrets.token_hex(16)}-{parent}-00").status_code == 200

    def mine() -> list[dict[str, Any]]:
        return [span for span in spans if span["traceId"] == trace]

    until(lambda: len(mine()) >= 4, lambda: spans, 30)
    (root,) = (span for span in mine() if span.get("parentSpanId") == parent)
    children = [span for span in mine() if span is not root]
    assert {span["parentSpanId"] for span in children} == {root["spanId"]}
    assert {"queue", "batch_wait", "compute"} <= {span["name"].rpartition(" ")[2] for span in children}
    assert {span["traceId"] for span in spans} == {trace}
    print("traced", [span["name"] for span in mine()])


def replicas_follow_the_clock_and_share_in_turn(platform: TestPlatform, client: Client, registry: Registry) -> None:
    policy = {"name": "schedule", "timezone": "UTC", "windows": [{"min": 2}]}
    scaled = {"min": 1, "max": 3, "upscale_delay_s": 1, "look_back_s": 10.5, "policy": policy}
    client.deploy(platform, registry, replicas=scaled, balancing="round_robin")
    until(lambda: client.replicas() == 2, client.replicas)
    time.sleep(5)  # HAProxy hears of a replica a moment later
    before = client.answered()
    for _ in range(ASKED):
        assert client.infer().status_code == 200
    until(lambda: (client.answered() - before).total() == ASKED, client.answered, 30)
    shares = sorted((client.answered() - before).values())
    print("in turn", shares)
    assert len(shares) == 2 and shares[0] >= 0.4 * ASKED


def the_last_replica_goes_and_comes_back(platform: TestPlatform, client: Client, registry: Registry) -> None:
    scaled = {"min": 0, "max": 1, "downscale_delay_s": 1, "downscale_to_zero_delay_s": 3, "look_back_s": 10.5}
    client.deploy(platform, registry, replicas=scaled)
    answer = client.infer()
    assert answer.status_code == 200, (answer.text, answer.headers)
    for _ in range(2):
        until(
            lambda: client.replicas() == 0 and not processes(platform), lambda: (client.replicas(), processes(platform))
        )
        started = time.monotonic()
        answer = client.infer()
        print(f"from zero: {answer.status_code} after {time.monotonic() - started:.1f} s")
        assert answer.status_code == 200, answer.text
        assert processes(platform)


def slow_answers_bring_replicas(platform: TestPlatform, client: Client, registry: Registry) -> None:
    policy = {"name": "latency", "objective_ms": 0.01}
    scaled = {"min": 1, "max": 2, "upscale_delay_s": 1, "look_back_s": 10.5, "policy": policy}
    client.deploy(platform, registry, replicas=scaled)
    until(lambda: client.replicas() == 1, client.replicas)

    def asked() -> bool:
        for _ in range(20):
            assert client.infer().status_code == 200
        return client.replicas() == 2

    until(asked, client.replicas)
