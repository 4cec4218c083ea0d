"""Planned memory against what torch's allocator logs of the same steps, and what strategies share of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity, profile

from lightmill.errors import RequestError
from lightmill.models.architectures import build_module
from lightmill.records.training import (
    ContextSpec,
    DdpSpec,
    FsdpSpec,
    HybridSpec,
    HybridSyncSpec,
    LocalSgdSpec,
    ParameterServerSpec,
    PipelineSpec,
    RingSpec,
    TensorSpec,
)
from lightmill.training.planning.layouts import AnyStrategy, Layout, layers_of, layout_of
from lightmill.training.planning.memory import STEPS, follow_step
from lightmill.training.planning.shares import Memory, worker_memory
from lightmill.training.planning.tracing import Trace
from lightmill.training.planning.traffic import step_traffic
from lightmill.training.strategies import Part, Setting
from lightmill.training.strategies.whole import WholeModule
from lightmill.training.team import Team
from tests.teams import Case, spec_of
from tests.unit.training.strategies.cases import labelled, language

ROWS = 16


def followed(case: Case, rows: int = ROWS, *, real: bool = False, **more: Any) -> Trace:
    build = lambda: build_module(case.objective.architecture)  # noqa: E731
    return follow_step(spec_of(case, **more), case.objective, build, case.rows, rows, real=real)


def logged(case: Case, rows: int = ROWS, **more: Any) -> int:
    """What the allocator held at most."""
    spec = spec_of(case, **more)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        strategy = WholeModule(Setting(spec=spec, team=Team.alone(), objective=case.objective, epoch_steps=1))
        strategy.prepare(build_module(case.objective.architecture))
        for _ in range(STEPS):
            whole = tuple(tensor[torch.arange(rows) % len(tensor)] for tensor in case.rows)
            parts = zip(*(tensor.split(rows // spec.accumulate) for tensor in whole), strict=True)
            strategy.step([Part(batch=part, weight=lambda: 0.5) for part in parts])
    live = most = 0
    for event in found.profiler.kineto_results.events():  # pyright: ignore[reportOptionalMemberAccess]
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most


@pytest.mark.parametrize(
    ("make", "more"),
    [
        (labelled, {"optimizer": "adamw"}),
        (language, {"optimizer": "adamw"}),
        (language, {"optimizer": {"name": "sgd", "arguments": {"momentum": 0.9}}, "precision": "bf16", "ema": 0.9}),
    ],
    ids=["perceptron", "decoder", "mixed and averaged"],
)
def test_planned_is_what_the_allocator_logs(make: Any, more: dict[str, Any]) -> None:
    case = make()
    assert followed(case, **more).peak() == pytest.approx(logged(case, **more), rel=0.05)


def test_what_stays_is_known_by_kind() -> None:
    case = labelled()
    size = sum(parameter.nbytes for parameter in build_module(case.objective.architecture).parameters())
    plain = followed(case, optimizer="sgd")
    assert [plain.total(kind) for kind in ("parameter", "gradient", "optimizer", "averaged")] == [size, size, 0, 0]
    kept = followed(case, optimizer="adamw", ema=0.5, accumulate=4)
    assert (kept.total("gradient"), kept.total("averaged")) == (size, size)
    assert kept.total("optimizer") == pytest.approx(2 * size, rel=0.05)  # and a counter of each parameter
    assert followed(case, precision="fp16").peak() == followed(case, precision="bf16").peak()


def test_a_model_that_looks_at_values_is_followed_with_numbers() -> None:
    case = labelled()

    class Curious(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input if float(input.sum()) > 0 else -input)

    curious = lambda: Curious(8, 4)  # noqa: E731
    with pytest.raises(Exception, match="aten"):
        follow_step(spec_of(case), case.objective, curious, case.rows, 8)
    assert follow_step(spec_of(case), case.objective, curious, case.rows, 8, real=True).total("parameter") == 4 * 36


class Followed(tuple[Trace, nn.Module]):
    def __repr__(self) -> str:
        return "a followed decoder"


@pytest.fixture(scope="module")
def decoder() -> tuple[Trace, nn.Module]:
    case = language()
    return Followed((followed(case, optimizer="adamw"), build_module(case.objective.architecture)))


def of(found: tuple[Trace, nn.Module], strategy: AnyStrategy, workers: int) -> Memory:
    return worker_memory(found[0], layers_of(found[1]), strategy, layout_of(strategy, workers), kept_steps=1)


def test_strategies_share_what_they_say(decoder: tuple[Trace, nn.Module]) -> None:
    alone, data, sharded = of(decoder, DdpSpec(), 1), of(decoder, DdpSpec(), 2), of(decoder, FsdpSpec(), 4)
    assert alone.total_bytes < data.total_bytes <= alone.total_bytes + alone.gradient_bytes, "buckets stay"
    assert data.other_bytes == 0
    assert sharded.optimizer_bytes == pytest.approx(alone.optimizer_bytes / 4, rel=0.01)
    assert of(decoder, FsdpSpec(reshard=False), 4).parameter_bytes == alone.parameter_bytes
    both = of(decoder, HybridSpec(tensor=2, shard=True), 4)
    assert alone.optimizer_bytes / 4.5 < both.optimizer_bytes < alone.optimizer_bytes / 3.5
    split = of(decoder, TensorSpec(), 2)
    assert alone.parameter_bytes / 2 < split.parameter_bytes < 0.6 * alone.parameter_bytes, "norms are whole"
    assert split.total_bytes < alone.total_bytes
    assert of(decoder, ContextSpec(), 4).activation_bytes < alone.activation_bytes / 2
    one, many = (of(decoder, PipelineSpec(microbatches=count), 2) for count in (1, 8))
    assert many.activation_bytes < one.activation_bytes and one.parameter_bytes < 0.7 * alone.parameter_bytes
    served = of(decoder, ParameterServerSpec(servers=2), 4)
    assert (served.optimizer_bytes, alone.optimizer_bytes) != (alone.optimizer_bytes, 0)
    assert served.server_bytes == pytest.approx((4 * alone.parameter_bytes) / 2, rel=0.05)


@pytest.mark.parametrize(
    ("strategy", "workers", "said"),
    [
        (TensorSpec(size=3), 4, "tensor: size 3 does not divide 4 workers"),
        (PipelineSpec(stages=4), 6, "pipeline: stages 4 does not divide 6"),
        (HybridSpec(data=2, tensor=2, pipeline=2), 4, "are 8 workers, not 4"),
        (HybridSyncSpec(group_size=3), 4, "group_size 3"),
    ],
)
def test_a_mesh_that_does_not_multiply_is_refused(strategy: AnyStrategy, workers: int, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        layout_of(strategy, workers)


KINDS = st.sampled_from(
    [
        DdpSpec(),
        FsdpSpec(),
        FsdpSpec(reshard=False),
        TensorSpec(),
        PipelineSpec(),
        ContextSpec(),
        HybridSpec(),
        ParameterServerSpec(),
        LocalSgdSpec(),
        RingSpec(),
        HybridSyncSpec(group_size=1),
    ]
)


@settings(deadline=None, max_examples=40)
@given(KINDS, st.integers(1, 9), st.integers(1, 4))
def test_every_strategy_has_memory_and_messages(
    decoder: tuple[Trace, nn.Module], strategy: AnyStrategy, workers: int, accumulate: int
) -> None:
    layout = layout_of(strategy, workers)
    layers = layers_of(decoder[1])
    assert layout.workers == workers
    if layout.stages > len(layers.names):
        return  # a check refuses more stages than layers
    memory = worker_memory(decoder[0], layers, strategy, layout, kept_steps=1)
    parts = (memory.parameter_bytes, memory.gradient_bytes, memory.optimizer_bytes, memory.activation_bytes)
    assert all(part >= 0 for part in parts) and memory.total_bytes >= memory.parameter_bytes > 0
    sent = step_traffic(decoder[0], layers, strategy, layout, accumulate)
    assert sent.all_bytes >= sent.worker_bytes >= 0
    if workers == 1 and not isinstance(strategy, ParameterServerSpec | HybridSyncSpec):
        assert sent.all_bytes == 0


def test_bytes_of_messages(decoder: tuple[Trace, nn.Module]) -> None:
    trace, layers = decoder[0], layers_of(decoder[1])
    size = trace.total("parameter")

    def sent(strategy: AnyStrategy, workers: int, accumulate: int = 1) -> int:
        return step_traffic(trace, layers, strategy, layout_of(strategy, workers), accumulate).worker_bytes

    assert sent(DdpSpec(), 2) == size and sent(DdpSpec(), 4, accumulate=8) == pytest.approx(1.5 * size, abs=1)
    assert sent(FsdpSpec(), 2) == pytest.approx(1.5 * size, abs=1)
    assert sent(FsdpSpec(), 2, accumulate=2) == pytest.approx(2.5 * size, abs=1)
    assert sent(FsdpSpec(reshard=False), 2) == size
    assert sent(LocalSgdSpec(local_steps=8), 2) == pytest.approx(size / 8, abs=1)
    assert sent(RingSpec(every_steps=2), 8) == size // 2
    assert sent(ParameterServerSpec(), 4) == size
    rows, length, width = ROWS, 8, 16
    layer = rows * length * width * 4
    assert sent(TensorSpec(), 2) == (2 * 4 + 1) * 2 * layer, "two sums of each of four layers, and the embedding's"
    assert sent(PipelineSpec(), 2) == 2 * layer


@given(st.integers(1, 12), st.integers(1, 16), st.sampled_from(["gpipe", "1f1b"]))
def test_a_stage_holds_no_more_microbatches_than_there_are(stages: int, microbatches: int, schedule: str) -> None:
    layout = Layout(data=1, stages=stages, microbatches=microbatches, schedule=schedule)
    held = [layout.in_flight(stage) for stage in range(stages)]
    assert held == sorted(held, reverse=True) and 1 <= min(held) <= max(held) <= microbatches
