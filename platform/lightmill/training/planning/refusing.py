"""Refuses a run whose workers cannot fit the memory of any node, when that is sure.

Most runs are far from that, and their plan is not made: a bound from shapes alone says so.
"""

from __future__ import annotations

import logging

from lightmill.errors import RequestError
from lightmill.training.placement import Cluster, Placement
from lightmill.training.planning.layouts import layers_of, layout_of
from lightmill.training.planning.memory import follow_step
from lightmill.training.planning.rooms import memory_each, size_text
from lightmill.training.planning.shares import Memory, worker_memory
from lightmill.training.planning.subject import Subject

SURE = 1.15
"""An estimate is within 15 % of what is measured."""
SMALL_PARAMETERS, SMALL_STEP = 0.02, 0.1
"""Shares of a node: a model with less, whose step does not take more by `ROW_FACTOR`, is not looked at any closer."""
ROW_FACTOR = 2000
"""Where parameters are few, a row's activations rarely take more than so many times the row."""
logger = logging.getLogger("lightmill.training")


def refuse_too_large(subject: Subject, placement: Placement, cluster: Cluster) -> None:
    """Refuse a run if its workers need more than 1.15 times the memory of every node that they could go to.

    Raises:
        RequestError: They do.
    """
    rooms = [memory_each(node, placement) for node in cluster.with_labels(placement.labels).nodes]
    known = [room for room in rooms if room is not None]
    if not known or len(known) < len(rooms) or _surely_small(subject, max(known), placement.workers):
        return
    try:
        memory = planned_memory(subject, placement.most)
    except RequestError:
        raise
    except Exception as exc:  # noqa: BLE001 - a model's own code may do anything; what cannot be planned is not refused
        logger.info("the memory of this run cannot be planned: %s", exc)
        return
    if memory.total_bytes > SURE * max(known):
        raise RequestError(too_large(subject, memory, max(known)))


def planned_memory(subject: Subject, workers: int) -> Memory:
    """Return what a worker of the specification's strategy needs."""
    spec = subject.spec
    layout = layout_of(spec.strategy, workers)
    rows = -(-spec.batch_size // layout.data)
    trace = follow_step(spec, subject.objective, subject.build, subject.sample(), rows)
    return worker_memory(trace, layers_of(subject.shapes()), spec.strategy, layout, kept_steps=1)


def too_large(subject: Subject, memory: Memory, room_bytes: int) -> str:
    """Return what is said of a run that does not fit."""
    spec = subject.spec
    return (
        f"A worker needs about {size_text(memory.total_bytes)} (parameters, gradients and optimizer "
        f"{size_text(memory.parameter_bytes + memory.gradient_bytes + memory.optimizer_bytes)}, activations "
        f"{size_text(memory.activation_bytes)}), and no node has more than {size_text(room_bytes)} for it. Lower "
        f"`batch_size` ({spec.batch_size}), raise `accumulate` ({spec.accumulate}) or `workers` ({spec.workers}), set "
        "`checkpoint_activations`, choose a smaller `architecture` or a `strategy` that splits the model, such as fsdp "
        f"(now {spec.strategy.name}); `lightmill plan` compares them."
    )


def _surely_small(subject: Subject, room_bytes: int, workers: int) -> bool:
    parameters = sum(parameter.nbytes for parameter in subject.shapes().parameters())
    part = subject.spec.batch_size / workers / subject.spec.accumulate * subject.rows.row_bytes
    return parameters < SMALL_PARAMETERS * room_bytes and part * ROW_FACTOR < SMALL_STEP * room_bytes
