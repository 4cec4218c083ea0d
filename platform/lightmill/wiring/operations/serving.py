"""Serving from the command line: the simulation of an endpoint. It needs neither a platform nor a key ring."""

from __future__ import annotations

from lightmill.records.jobs import Progress
from lightmill.records.simulations import SimulationReport, SimulationSpec
from lightmill.wiring.operations import OperationContext


def simulate(context: OperationContext, options: SimulationSpec) -> SimulationReport:
    """Return what each policy of scaling would cost and miss.

    Raises:
        NotFoundError: There is no file of the trace.
        RequestError: The trace cannot be read, or nothing comes.
    """
    from lightmill.serving.simulation.report import simulate as run

    def tell(policy: str, done: int, total: int) -> None:
        context.report(Progress(phase=policy, done=done, total=total, unit="policies"))

    return run(options, tell)
