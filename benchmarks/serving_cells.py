"""Cells of the serving benchmarks: one side, one workload, some clients, a few seconds; sides take turns in rounds.

CPU is user and system time of a server's own processes: of a peer its whole process tree, of ours and of plain Ray
Serve HAProxy and the application's replicas. Ray's own processes and the control application do nothing for a request.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import figure, note
from benchmarks.serving_ours import OURS, cpu_s
from benchmarks.serving_peers import Server
from benchmarks.serving_wire import Load, wrk

SECONDS = 2.0
WARM_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What was measured; `cpu_ms` is of one request."""

    server: str
    load: Load
    cpu_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A figure's name, the workload, how many clients, and the goals over the control: RPS at least, CPU at most.

    `against` are the peers that it is measured with, all of them if it is empty.
    """

    name: str
    workload: str
    clients: int
    against: tuple[str, ...] = ()
    rps_goal: float | None = None
    cpu_goal: float | None = None


def measure(server: Server, workload: str, folder: Path, *, clients: int, seconds: float = SECONDS) -> Cell | None:
    """Ask one server; None if it does not offer the workload."""
    ask = server.ask(workload)
    if ask is None:
        return None
    server.pause(False)
    try:
        processes = server.processes()
        before = cpu_s(processes)
        load = wrk(server.url, ask, folder, clients=clients, seconds=seconds)
        used = cpu_s(processes) - before
    finally:
        server.pause(True)
    return Cell(server=server.name, load=load, cpu_ms=used * 1000 / load.requests)


def rounds(case: Case, servers: Sequence[Server], folder: Path, count: int) -> dict[str, list[Cell]]:
    """Measure all servers in turn, `count` times, in one order and then in the other."""
    servers = [one for one in servers if not case.against or one.name in (OURS, *case.against)]
    found: dict[str, list[Cell]] = {server.name: [] for server in servers}
    for server in [*servers]:
        try:
            measure(server, case.workload, folder, clients=case.clients, seconds=WARM_S)
        except SystemExit as exc:
            note(f"  {case.name}: {server.name} is left out: {exc}")
            servers.remove(server)
    for turn in range(count):
        for server in servers if turn % 2 == 0 else reversed(servers):
            try:
                cell = measure(server, case.workload, folder, clients=case.clients)
            except SystemExit as exc:
                note(f"  {server.name}: {exc}")
                continue
            if cell:
                found[server.name].append(cell)
                note(
                    f"  {case.name} c={case.clients} {server.name:10s} {cell.load.rps:9.1f} rps  p50 "
                    f"{cell.load.p50_ms:8.2f} ms  p99 {cell.load.p99_ms:8.2f} ms  cpu {cell.cpu_ms:.3f} ms"
                )
        time.sleep(0.2)
    return {name: cells for name, cells in found.items() if len(cells) == count}


def tell(case: Case, found: dict[str, list[Cell]], control: str) -> None:
    """Print the two figures of ours over each peer; the goals are those over the control."""
    ours = found.get(OURS)
    if not ours:
        note(f"  {case.name}: ours failed")
        return
    for peer, cells in found.items():
        if peer == OURS:
            continue
        judged = peer == control
        more = {
            "clients": case.clients,
            "p50_ms": round(statistics.median(cell.load.p50_ms for cell in ours), 3),
            "peer_p50_ms": round(statistics.median(cell.load.p50_ms for cell in cells), 3),
            "p99_ms": round(statistics.median(cell.load.p99_ms for cell in ours), 3),
            "peer_p99_ms": round(statistics.median(cell.load.p99_ms for cell in cells), 3),
        }
        rps_goal, cpu_goal = (case.rps_goal, case.cpu_goal) if judged else (None, None)
        figure(
            f"{case.name}_rps_vs_{peer}",
            "requests/s",
            [cell.load.rps for cell in ours],
            [cell.load.rps for cell in cells],
            goal=f">= {rps_goal:g}" if rps_goal else "",
            holds=_at_least(rps_goal),
            **more,
        )
        figure(
            f"{case.name}_cpu_vs_{peer}",
            "ms/request",
            [cell.cpu_ms for cell in ours],
            [cell.cpu_ms for cell in cells],
            goal=f"<= {cpu_goal:g}" if cpu_goal else "",
            holds=_at_most(cpu_goal),
            **more,
        )


def table(results: Sequence[tuple[Case, dict[str, list[Cell]]]]) -> str:
    """Return all cells as a table: requests a second and CPU milliseconds a request, medians."""
    names = list(dict.fromkeys(name for _, found in results for name in found))
    head = ["server", *(f"{case.name} c={case.clients}" for case, _ in results)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in names:
        row = [name]
        for _, found in results:
            cells = found.get(name)
            row.append(
                f"{statistics.median(cell.load.rps for cell in cells):.0f} / "
                f"{statistics.median(cell.cpu_ms for cell in cells):.3f}"
                if cells
                else "-"
            )
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _at_least(goal: float | None):
    return None if goal is None else lambda value: value >= goal


def _at_most(goal: float | None):
    return None if goal is None else lambda value: value <= goal
