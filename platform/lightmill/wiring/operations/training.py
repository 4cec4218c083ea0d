"""Training from the command line: the plan of a run, made on a node with the key ring."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psutil
from pydantic import Field

from lightmill.errors import RequestError, UnavailableError
from lightmill.records.base import Record
from lightmill.records.jobs import Progress
from lightmill.records.plans import TrainPlan
from lightmill.records.references import AssetKind, parse_reference
from lightmill.records.specs import TrainSpec, parse_spec
from lightmill.settings import Settings
from lightmill.wiring.operations import OperationContext
from lightmill.wiring.platform import open_platform
from lightmill.wiring.session import running_address

if TYPE_CHECKING:
    from lightmill.training.placement import Cluster

PROBE_SHARE = 0.5
"""Of the memory that is free here, a probe takes at most so much."""


class PlanOptions(Record):
    """A training specification as a mapping, and what to say of it; without `strategies`, all.

    `link_gbits` is the speed of the network between workers in 10^9 bits a second.
    """

    spec: dict[str, Any]
    strategies: tuple[str, ...] = ()
    probe: bool = True
    link_gbits: float = Field(default=10.0, gt=0)


def plan(context: OperationContext, options: PlanOptions) -> TrainPlan:
    """Return what a run would take, and whether the cluster that runs here, else this machine, holds it.

    Raises:
        NotFoundError: There is no such dataset.
        RequestError: The specification is not valid, or does not fit the dataset.
    """
    spec = parse_spec(TrainSpec, options.spec, "The training specification")
    settings = context.settings
    os.environ.update(settings.node_environment())
    # Ray reads its settings when it is imported.
    from lightmill.training.fit import objective_of
    from lightmill.training.planning.plan import Wishes, plan_training
    from lightmill.training.planning.subject import Subject
    from lightmill.training.rows import Rows

    platform = open_platform(settings)
    with platform.catalog:
        dataset = platform.registry.open(platform.registry.resolve(AssetKind.DATASET, parse_reference(spec.dataset)))
        card = dataset.manifest.dataset
        if card is None:
            raise RequestError(f"{dataset.id} is no dataset that can be trained on.")
        objective = objective_of(spec, card, dataset, allow_python=settings.allow_python_steps)
        rows = Rows(objective, card, allow_python=settings.allow_python_steps)
        context.report(Progress(phase="look at the cluster", unit="strategies"))
        cluster, note = _cluster(settings)
        subject = Subject(
            spec=spec,
            dataset=dataset,
            location=platform.location,
            objective=objective,
            rows=rows,
            allow_python=settings.allow_python_steps,
        )
        wishes = Wishes(
            strategies=options.strategies,
            probe_bytes=int(psutil.virtual_memory().available * PROBE_SHARE) if options.probe else 0,
            link_gbits=options.link_gbits,
        )
        found = plan_training(subject, cluster, wishes, context.report)
    return found.model_copy(update={"notes": (*found.notes, *note)})


def _cluster(settings: Settings) -> tuple[Cluster, tuple[str, ...]]:
    """Return the nodes of the Ray that runs here, else this machine as one, and a note that says so."""
    from lightmill.control.ray_session import session
    from lightmill.training.placement import Cluster, Node
    from lightmill.training.waiting import describe_cluster

    address = os.environ.get("RAY_ADDRESS") or running_address(settings)
    note = "No platform runs here: this machine is taken for the cluster."
    if address:
        try:
            with session(address):
                return describe_cluster(), ()
        except UnavailableError as exc:
            note = f"{exc.message} This machine is taken for the cluster."
    machine = Node(
        cpus=float(settings.num_cpus),
        gpus=float(settings.num_gpus or 0),
        memory_bytes=psutil.virtual_memory().total,
        name="this machine",
    )
    return Cluster(nodes=(machine,)), (note,)
