"""The plan of a run: for each strategy what a worker needs, what is sent, how long it takes, and whether it fits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import get_args

from torch import nn

from lightmill.errors import LightmillError, RequestError
from lightmill.models.architectures import parameter_count
from lightmill.records.jobs import Progress
from lightmill.records.plans import NodeRoom, StrategyPlan, TrainPlan
from lightmill.records.specs import TrainSpec
from lightmill.records.training import AnyStrategy
from lightmill.training.placement import Cluster, Placement, place
from lightmill.training.planning.layouts import Layers, Layout, layers_of, layout_of
from lightmill.training.planning.memory import follow_step
from lightmill.training.planning.rooms import fits, memory_each, size_text
from lightmill.training.planning.shares import worker_memory
from lightmill.training.planning.subject import Subject
from lightmill.training.planning.timing import Probe, estimated_step_s, probe
from lightmill.training.planning.tracing import Trace
from lightmill.training.planning.traffic import Traffic, step_traffic
from lightmill.training.strategies import STRATEGIES
from lightmill.training.tally import Tally

KINDS: tuple[type[AnyStrategy], ...] = get_args(AnyStrategy)
Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a plan should say: `strategies` by name, by default all; `probe_bytes` is what a probe may take, 0 is none.

    `link_gbits` is the speed of the network between workers, in 10^9 bits a second.
    """

    strategies: tuple[str, ...] = ()
    probe_bytes: int = 0
    link_gbits: float = 10.0


@dataclass(slots=True, kw_only=True)
class Bench:
    """A run on the planner's bench: its model's layers, and the steps that were followed, by their rows."""

    subject: Subject
    shapes: nn.Module
    layers: Layers
    notes: list[str] = field(default_factory=list)
    traces: dict[int, Trace] = field(default_factory=dict)

    def trace(self, rows: int) -> Trace:
        """Return a followed step of so many rows of one worker."""
        if rows not in self.traces:
            self.traces[rows] = self._followed(rows)
        return self.traces[rows]

    def _followed(self, rows: int) -> Trace:
        subject = self.subject
        sample = subject.sample()
        try:
            return follow_step(subject.spec, subject.objective, subject.build, sample, rows)
        except LightmillError:
            raise
        except Exception as exc:  # noqa: BLE001 - a model's own code may do anything
            note = f"The model looks at values ({type(exc).__name__}), so its memory is that of a real step."
            if note not in self.notes:
                self.notes.append(note)
            return follow_step(subject.spec, subject.objective, subject.build, sample, rows, real=True)


def plan_training(subject: Subject, cluster: Cluster, wishes: Wishes, report: Report) -> TrainPlan:
    """Return the plan of a run.

    An elastic run is planned with its fewest workers, which need most memory each.

    Raises:
        RequestError: The specification fits neither the dataset nor, in its own strategy, the model.
    """
    spec = subject.spec
    if unknown := sorted(set(wishes.strategies) - set(STRATEGIES)):
        raise RequestError(f"There is no strategy {unknown[0]!r}; choose from {', '.join(sorted(STRATEGIES))}.")
    shapes = subject.shapes()
    bench = Bench(subject=subject, shapes=shapes, layers=layers_of(shapes))
    placement, refusal = _placed(subject, cluster)
    workers = spec.worker_range.min
    probed = _probed(bench, workers, wishes, report)
    chosen = [
        strategy for strategy in strategies_of(spec) if not wishes.strategies or strategy.name in wishes.strategies
    ]
    found = []
    for done, strategy in enumerate(chosen):
        report(Progress(phase=f"plan {strategy.name}", done=done, total=len(chosen), unit="strategies"))
        found.append(_planned(bench, strategy, workers, cluster, placement, probed, wishes.link_gbits))
    return TrainPlan(
        model=spec.model,
        dataset=str(subject.dataset.id),
        parameters=sum(parameter.numel() for parameter in shapes.parameters()),
        trained_parameters=parameter_count(shapes),
        workers=workers,
        batch_size=spec.batch_size,
        steps_per_epoch=subject.epoch_steps,
        steps=subject.epoch_steps * spec.epochs,
        precision=spec.precision,
        link_gbits=wishes.link_gbits,
        probe_rows=probed.rows if probed else 0,
        probe_steps=probed.steps if probed else 0,
        placement=refusal or str(placement),
        placed=not refusal,
        nodes=_rooms(cluster, placement),
        strategies=tuple(found),
        notes=(*placement.notes, *bench.notes),
    )


def strategies_of(spec: TrainSpec) -> Sequence[AnyStrategy]:
    """Return every strategy with its defaults, and the specification's own as it is there."""
    made = [spec.strategy if kind is type(spec.strategy) else kind() for kind in KINDS]
    return [strategy for strategy in made if strategy.name in STRATEGIES]


def _placed(subject: Subject, cluster: Cluster) -> tuple[Placement, str]:
    """Return where the run would go, or what it would ask for and why that cannot be."""
    spec = subject.spec
    try:
        return place(spec, cluster), ""
    except RequestError as exc:
        gpus = 0.0 if spec.resources.gpus == "auto" else float(spec.resources.gpus)
        asked = Placement(
            workers=spec.worker_range.min,
            most=spec.worker_range.max,
            cpus=spec.resources.cpus,
            gpus=gpus,
            device="cpu",
            backend="gloo",
            labels=spec.resources.labels,
        )
        return asked, exc.message


def _probed(bench: Bench, workers: int, wishes: Wishes, report: Report) -> Probe | None:
    """Return a timed step of a data parallel worker's part; nothing where it takes more memory than it may."""
    spec = bench.subject.spec
    share = -(-spec.batch_size // workers)
    if not wishes.probe_bytes:
        return None
    needed = bench.trace(share).peak()
    if needed > wishes.probe_bytes:
        bench.notes.append(
            f"Time is not estimated: a step takes {size_text(needed)}, and this machine has "
            f"{size_text(wishes.probe_bytes)} for it."
        )
        return None
    report(Progress(phase="time some steps", unit="steps"))
    rows = -(-share // spec.accumulate)
    threads = max(1, int(spec.resources.cpus))
    subject = bench.subject
    return probe(spec, subject.objective, subject.build, subject.sample(), rows, threads)


def _planned(
    bench: Bench,
    strategy: AnyStrategy,
    workers: int,
    cluster: Cluster,
    placement: Placement,
    probed: Probe | None,
    link_gbits: float,
) -> StrategyPlan:
    spec = bench.subject.spec
    own = strategy.name == spec.strategy.name
    try:
        asked = spec.model_copy(update={"strategy": strategy})
        STRATEGIES[strategy.name].check(asked, bench.shapes, workers)
        layout = layout_of(strategy, workers)
    except RequestError as exc:
        return StrategyPlan(strategy=strategy.name, chosen=own, refused=exc.message)
    rows = -(-spec.batch_size // layout.data)
    trace = bench.trace(rows)
    steps = bench.subject.epoch_steps
    kept = min(Tally.FLUSH_STEPS, steps * spec.accumulate) // spec.accumulate
    memory = worker_memory(trace, bench.layers, strategy, layout, max(1, kept))
    traffic = step_traffic(trace, bench.layers, strategy, layout, spec.accumulate)
    rows_bytes = bench.subject.rows_bytes(layout.data)
    step_s = _step_s(probed, rows, layout, traffic, link_gbits)
    needed = memory.total_bytes + rows_bytes
    fitting = fits(cluster, placement, needed, workers) if cluster.nodes else None
    return StrategyPlan(
        strategy=strategy.name,
        chosen=own,
        layout=_layout_text(layout),
        parameter_bytes=memory.parameter_bytes,
        gradient_bytes=memory.gradient_bytes,
        optimizer_bytes=memory.optimizer_bytes,
        activation_bytes=memory.activation_bytes,
        other_bytes=memory.other_bytes,
        server_bytes=memory.server_bytes,
        rows_bytes=rows_bytes,
        total_bytes=needed,
        sent_bytes=traffic.worker_bytes,
        all_sent_bytes=traffic.all_bytes,
        step_s=step_s,
        run_s=None if step_s is None else step_s * steps * spec.epochs,
        fits=fitting,
        why_not=_why_not(fitting, needed, workers, cluster, placement),
    )


def _step_s(probed: Probe | None, rows: int, layout: Layout, traffic: Traffic, link_gbits: float) -> float | None:
    if probed is None:
        return None
    return estimated_step_s(
        probed,
        rows=rows,
        split=layout.tensor * layout.stages * layout.context,
        microbatches=layout.microbatches,
        stages=layout.stages,
        sent_bytes=traffic.busiest_bytes,
        link_gbits=link_gbits,
    )


def _why_not(fitting: bool | None, needed: int, workers: int, cluster: Cluster, placement: Placement) -> str:
    if fitting is not False:
        return ""
    rooms = [room for node in cluster.nodes if (room := memory_each(node, placement)) is not None]
    return f"{workers} workers need {size_text(needed)} each; the largest node has {size_text(max(rooms, default=0))}"


def _layout_text(layout: Layout) -> str:
    parts = {"data": layout.data, "tensor": layout.tensor, "pipeline": layout.stages, "context": layout.context}
    return " x ".join(f"{name} {size}" for name, size in parts.items() if size > 1) or "alone"


def _rooms(cluster: Cluster, placement: Placement) -> tuple[NodeRoom, ...]:
    return tuple(
        NodeRoom(
            name=node.name or f"node {number}",
            cpus=node.cpus,
            gpus=node.gpus,
            memory_bytes=memory_each(node, placement),
        )
        for number, node in zip(itertools.count(1), cluster.nodes, strict=False)
    )
