"""What clients notice of faults and changes: processes killed outright under load, versions rolled out and back.

Two loads run all the while, one on an endpoint of three replicas and one through the gateway; clients repeat what went
wrong up to `RETRIES` times, since inference may be repeated. `recovered_s` is from the fault to the last attempt that
went wrong, `whole_s` to the moment when all that was killed is there again. Nodes are Ray's on this one machine.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

import lightmill
from benchmarks.figures import figure, note
from benchmarks.serving_life import Heard, asking
from benchmarks.serving_ours import deploy, publish, serving_platform
from benchmarks.serving_peers import node_environment
from tests.platforms import BIN, TestPlatform

RETRIES = 12
REPLICAS = 3
SETTLE_S = 4.0
WAIT_S = 90.0
FLIPS = 100
NODE = Path(__file__).with_name("serving_node.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that happens: `strike` does it, `whole` says whether everything is as before."""

    name: str
    strike: Callable[[], None]
    whole: Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the clients of one load were told of a fault."""

    fault: str
    load: str
    answered: int
    failed: int
    stumbled: int
    gap_s: float
    recovered_s: float
    whole_s: float | None


def main() -> None:
    """Strike one fault after the other, and print a table."""
    outcomes: list[Outcome] = []
    with serving_platform("mlp", LIGHTMILL_NUM_CPUS="2") as platform, _nodes(platform) as nodes:
        publish(platform, "mlp")
        deploy(platform, "mlp", resources={"cpus": 0.5}, replicas={"min": REPLICAS, "max": REPLICAS})
        faults = _faults(platform, nodes)
        asked = [word for word in sys.argv[1:] if word in faults]
        for name in asked or faults:
            _until(lambda: _whole(platform), WAIT_S)
            outcomes += _strike(platform, faults[name])
    note(_table(outcomes))
    for one in outcomes:
        figure(
            f"chaos_{one.fault}",
            "failed",
            [one.failed],
            goal="0",
            holds=lambda value: value == 0,
            **{name: getattr(one, name) for name in ("load", "answered", "stumbled")},
            gap_s=round(one.gap_s, 2),
            recovered_s=round(one.recovered_s, 2),
            whole_s=one.whole_s,
        )


def _strike(platform: TestPlatform, fault: Fault) -> list[Outcome]:
    with (
        asking(platform, "mlp", retries=RETRIES) as direct,
        asking(platform, "mlp", retries=RETRIES, by_gateway=True) as gateway,
    ):
        time.sleep(2)
        at = time.perf_counter()
        fault.strike()
        whole = _until(fault.whole, WAIT_S)
        whole_s = round(time.perf_counter() - at, 1) if whole else None
        time.sleep(SETTLE_S)
    found = [_outcome(fault.name, load, heard, at, whole_s) for load, heard in (("http", direct), ("gateway", gateway))]
    for one in found:
        note(f"  {one}")
    for heard in (direct, gateway):
        for problem in heard.failed[:2]:
            note(f"    failed: {problem}")
    return found


def _outcome(fault: str, load: str, heard: Heard, at: float, whole_s: float | None) -> Outcome:
    return Outcome(
        fault=fault,
        load=load,
        answered=len(heard.at_s),
        failed=len(heard.failed),
        stumbled=len(heard.stumbled),
        gap_s=heard.longest_gap_s,
        recovered_s=max((when - at for when, _ in heard.stumbled), default=0.0),
        whole_s=whole_s,
    )


def _faults(platform: TestPlatform, nodes: list[subprocess.Popen[bytes]]) -> dict[str, Fault]:
    def killing(name: str, title: str) -> Fault:
        """Return the end of one process of a title; whole again are as many of them, without it."""
        killed: list[int] = []
        before: list[int] = []

        def strike() -> None:
            found = _titled(platform, title)
            before.append(len(found))
            killed.append(found[0].pid)
            found[0].kill()

        def whole() -> bool:
            left = [one for one in _titled(platform, title) if one.pid not in killed]
            return len(left) >= before[-1] and _whole(platform)

        return Fault(name=name, strike=strike, whole=whole)

    def lose_node() -> None:
        # The raylet's own processes end with it.
        family = [psutil.Process(nodes[-1].pid), *psutil.Process(nodes[-1].pid).children(recursive=True)]
        for process in family:
            if process.name() in ("raylet", "ray::raylet") or "raylet/raylet" in " ".join(_words(process)):
                process.kill()

    def moved(version: int) -> Callable[[], None]:
        def strike() -> None:
            platform.lightmill("models", "alias", "mlp", "champion", str(version))

        return strike

    def flip() -> None:
        with lightmill.connect(platform.url, platform.key) as client:
            for turn in range(FLIPS):
                client.models.set_alias("mlp", "champion", 1 + turn % 2)

    found = [
        killing("predictor", "ServeReplica:endpoint-mlp"),
        killing("gateway", "ServeReplica:control"),
        killing("haproxy", "haproxy"),
        killing("controller", "ServeController"),
        Fault(name="node", strike=lose_node, whole=lambda: _whole(platform)),
        Fault(name="rollout", strike=moved(1), whole=lambda: _serves(platform, "1")),
        Fault(name="rollback", strike=moved(2), whole=lambda: _serves(platform, "2")),
        Fault(name="flips", strike=flip, whole=lambda: _serves(platform, "2")),
    ]
    return {fault.name: fault for fault in found}


@contextmanager
def _nodes(platform: TestPlatform) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Join two more nodes to the platform's Ray; with any two of the three there is room for all replicas."""
    address = f"127.0.0.1:{platform.environment['LIGHTMILL_RAY_PORT']}"
    started: list[subprocess.Popen[bytes]] = []
    try:
        for cpus in (2, 1):
            started.append(
                subprocess.Popen(
                    [BIN / "python", NODE, address, str(cpus)],
                    env=node_environment(platform),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            # One after the other: two that start at once take each other's names of sockets.
            if not _until(lambda: _status(platform).get("nodes") == 1 + len(started), WAIT_S):
                raise SystemExit("the node does not join")
        yield started
    finally:
        for process in started:
            process.communicate(timeout=60)


def _titled(platform: TestPlatform, title: str) -> list[psutil.Process]:
    """Return the processes whose program, or the title that Ray gave them, holds a word."""
    return [one for one in platform.processes() if title in "".join(_words(one)[:1])]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _status(platform: TestPlatform, path: str = "status") -> dict[str, object]:
    """Return what the control API says, nothing while it does not answer."""
    try:
        answer = httpx.get(f"{platform.url}/api/v1/{path}", headers={"X-API-Key": platform.key}, timeout=10)
        return answer.json() if answer.status_code == 200 else {}
    except (httpx.HTTPError, ValueError):
        return {}


def _whole(platform: TestPlatform) -> bool:
    found = _status(platform, "endpoints/mlp")
    alive = len(_titled(platform, "ServeReplica:endpoint-mlp"))
    return found.get("state") == "ready" and found.get("replicas") == REPLICAS and alive >= REPLICAS


def _serves(platform: TestPlatform, version: str) -> bool:
    found = _status(platform, "endpoints/mlp")
    served = found.get("version")
    return _whole(platform) and isinstance(served, dict) and str(served.get("seq")) == version


def _until(holds: Callable[[], bool], wait_s: float) -> bool:
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.25)
    return False


def _table(outcomes: list[Outcome]) -> str:
    columns = ("fault", "load", "answered", "failed", "stumbled", "gap_s", "recovered_s", "whole_s")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for one in outcomes:
        values = [getattr(one, name) for name in columns]
        lines.append("| " + " | ".join(f"{v:.1f}" if isinstance(v, float) else str(v) for v in values) + " |")
    return "\n".join(lines)
