"""Rules of balancing in HAProxy's configuration, judged by the HAProxy that comes with Ray."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from lightmill.launch.haproxy import _binary, write_haproxy
from lightmill.records.balancing import BalancingName, BalancingSpec
from lightmill.serving.routing.haproxy import backends, directives, set_balance
from lightmill.settings import Settings

CONFIG = """defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    balance leastconn
frontend http_frontend
    bind 127.0.0.1:28999
    default_backend http-endpoint-a
backend http-endpoint-a
    http-reuse always
    server SERVE_REPLICA_a 127.0.0.1:30001 check
backend http-endpoint-ab
    http-reuse always
    server SERVE_REPLICA_b 127.0.0.1:30002 check
    server proxy 127.0.0.1:8500 check backup
backend grpc-endpoint-a
    http-reuse always
    server SERVE_REPLICA_a 127.0.0.1:30003 proto h2 check
"""

PATIENCE = " # Lightmill\n    timeout http-request 30s"
"""What the wrapper adds for every client, whatever the rules."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = Settings(home=tmp_path / "home")
    write_haproxy(found)
    yield found  # pyright: ignore
    for path in (found.run_path / "h").iterdir():
        path.unlink()
    (found.run_path / "h").rmdir()
    found.run_path.rmdir()


def rewritten(settings: Settings, tmp_path: Path) -> str:
    script = settings.run_path / "h" / "haproxy"
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    for _ in range(2):  # a configuration that was rewritten already stays as it is
        done = subprocess.run(
            [str(script), "-c", "-f", str(config)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("haproxy")] == ["haproxy.cfg"]
    return config.read_text().replace(PATIENCE, "")


@pytest.mark.skipif(not os.access(_binary(), os.X_OK), reason="no HAProxy")
@pytest.mark.parametrize("name", get_args(BalancingName))
def test_every_rule_is_one_that_haproxy_takes_and_only_its_own_backends_have_it(
    name: BalancingName, settings: Settings, tmp_path: Path
) -> None:
    spec = BalancingSpec(name=name, header="X-Customer", bound=1.5)
    set_balance(settings.run_path / "h" / "balance", "endpoint-a", spec)
    rules = "".join(f"    {line}\n" for line in directives(spec))
    expected = CONFIG
    for backend in backends("endpoint-a"):
        expected = expected.replace(f"\nbackend {backend}\n", f"\nbackend {backend}\n{rules}")
    assert rewritten(settings, tmp_path) == expected


@pytest.mark.skipif(not os.access(_binary(), os.X_OK), reason="no HAProxy")
def test_a_rule_that_haproxy_refuses_is_left_out(settings: Settings, tmp_path: Path) -> None:
    (settings.run_path / "h" / "balance").write_text("http-endpoint-a\tbalance by-the-moon\n")
    assert rewritten(settings, tmp_path) == CONFIG


def test_what_haproxy_cannot_do_has_no_rule() -> None:
    assert [directives(BalancingSpec(name=name)) for name in ("least_loaded", "weighted", "prefix")] == [()] * 3
    assert directives(BalancingSpec(name="hash")) == (
        "balance hdr(x-session-id)",
        "hash-type consistent",
        "hash-balance-factor 125",
    )


def test_each_application_has_its_own_lines_and_takes_them_along(tmp_path: Path) -> None:
    path = tmp_path / "balance"
    set_balance(path, "endpoint-a", BalancingSpec(name="round_robin"))
    set_balance(path, "endpoint-b", BalancingSpec(name="random"))
    set_balance(path, "endpoint-a", BalancingSpec(name="power_of_two"))
    lines = path.read_text().splitlines()
    assert lines == [
        "http-endpoint-b\tbalance random(1)",
        "grpc-endpoint-b\tbalance random(1)",
        "http-endpoint-a\tbalance random(2)",
        "grpc-endpoint-a\tbalance random(2)",
    ]
    set_balance(path, "endpoint-b", None)
    set_balance(path, "endpoint-a", BalancingSpec())
    assert path.read_text() == ""
    set_balance(tmp_path / "nowhere" / "balance", "endpoint-a", BalancingSpec(name="random"))
    assert [one.name for one in tmp_path.iterdir()] == ["balance"]


def test_names_are_those_that_ray_gives() -> None:
    haproxy = pytest.importorskip("ray.serve._private.haproxy")
    for name in ("endpoint-a", "endpoint-a_b.c", "endpoint-#1/x y"):
        theirs = [haproxy.HAProxyManager.get_safe_name(f"{protocol}-{name}") for protocol in ("http", "grpc")]
        assert list(backends(name)) == theirs
