"""Optimizers against torch, schedules, mixed precision, activations computed again."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from lightmill.errors import RequestError
from lightmill.models.architectures import seeded
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.records.training import OptimizerName, ScheduleSpec
from lightmill.training.optimization import Updater, build_optimizer, learning_rate_factor, made_ready
from lightmill.training.optimization.optimizers import OPTIMIZERS
from lightmill.training.optimization.states import load_module_state, module_state
from lightmill.training.optimization.updater import computing_in

CPU = torch.device("cpu")
DECODER = Architecture(
    name="decoder", arguments={"vocabulary": 7, "context": 6, "width": 8, "layers": 2, "heads": 2, "tied": False}
)
RESNET = Architecture(
    name="resnet", arguments={"inputs": 16, "classes": 3, "image": [1, 4, 4], "channels": [4, 4], "depth": 1}
)


def spec(**more: Any) -> TrainSpec:
    base = {"model": "m", "dataset": "d", "architecture": {"name": "logistic"}, "workers": 1, "learning_rate": 0.01}
    return TrainSpec.model_validate(base | more)


def updater(net: nn.Module, **more: Any) -> Updater:
    return Updater(dict(net.named_parameters()), spec(**more), 10, 5, CPU)


def stepped(net: nn.Module, made: Any, steps: int = 3) -> list[torch.Tensor]:
    for number in range(steps):
        rows = torch.randn(6, 3, generator=torch.Generator().manual_seed(number))
        made.zero_grad()
        net(rows).square().sum().backward()
        made.step()
    return [parameter.detach() for parameter in net.parameters()]


@pytest.mark.parametrize("name", sorted(set(get_args(OptimizerName)) - {"muon"}))
def test_an_optimizer_is_torch_s(name: OptimizerName) -> None:
    made = spec(optimizer=name, weight_decay=0.1)
    one, two = (seeded(1, Architecture(name="logistic", arguments={"inputs": 3, "classes": 2})) for _ in range(2))
    mine = stepped(one, build_optimizer(one.parameters(), made))
    other = stepped(two, OPTIMIZERS[name](two.parameters(), lr=0.01, weight_decay=0.1))  # pyright: ignore[reportCallIssue]
    for left, right in zip(mine, other, strict=True):
        torch.testing.assert_close(left, right)


def test_an_optimizer_that_does_not_know_an_argument_is_refused() -> None:
    for name in ("adamw", "muon"):
        with pytest.raises(RequestError, match=f"Optimizer '{name}' refuses the arguments"):
            build_optimizer(nn.Linear(2, 2).parameters(), spec(optimizer={"name": name, "arguments": {"speed": 1.0}}))
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(RequestError, match="Nothing of the model is trained"):
        build_optimizer(frozen.parameters(), spec())


def language_steps(net: nn.Module, made: Updater, steps: int) -> None:
    for number in range(steps):
        tokens = torch.randint(0, 7, (4, 6), generator=torch.Generator().manual_seed(number))
        made.zero()
        made.backward(nn.functional.cross_entropy(net(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()))
        made.apply()


def test_muon_takes_the_matrices_between_and_adamw_the_rest_and_both_go_on_from_a_state() -> None:
    whole, half, rest = (seeded(3, DECODER) for _ in range(3))
    more = {"optimizer": "muon", "weight_decay": 0.1}
    one = updater(whole, **more)
    language_steps(whole, one, 1)
    alone = seeded(3, DECODER)
    hidden = [
        p for name, p in alone.named_parameters() if p.ndim == 2 and "embedding" not in name and "head" not in name
    ]
    others = [p for name, p in alone.named_parameters() if all(p is not q for q in hidden)]
    assert hidden and others
    tokens = torch.randint(0, 7, (4, 6), generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(alone(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    torch.optim.Muon(hidden, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw").step()
    torch.optim.AdamW(others, lr=0.01, weight_decay=0.1).step()
    for left, right in zip(whole.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(left, right)
    language_steps(whole, one, 3)
    first = updater(half, **more)
    language_steps(half, first, 1)
    language_steps(half, first, 3)
    model, state = copy.deepcopy(get_state_dict(half, first.optimizer))  # the tensors are the live ones
    second = updater(rest, **more)
    set_state_dict(rest, second.optimizer, model_state_dict=model, optim_state_dict=state)
    second.step = first.step
    language_steps(half, first, 2)
    language_steps(rest, second, 2)
    for left, right in zip(half.parameters(), rest.parameters(), strict=True):
        torch.testing.assert_close(left, right)


schedules = st.builds(
    ScheduleSpec,
    name=st.sampled_from(["constant", "linear", "cosine", "inverse_sqrt", "exponential", "step"]),
    warmup_steps=st.integers(0, 40),
    final=st.floats(0, 1),
    gamma=st.floats(0.1, 1),
    every_epochs=st.integers(1, 3),
)


@given(schedules, st.integers(1, 100), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_a_learning_rate_rises_while_it_warms_up_and_never_after(made: ScheduleSpec, steps: int, epoch: int) -> None:
    found = [learning_rate_factor(made, step, steps, epoch) for step in range(steps)]
    assert all(0 <= factor <= 1 for factor in found)
    warm, rest = found[: made.warmup_steps], found[made.warmup_steps :]
    assert warm == sorted(warm)
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(rest))


@pytest.mark.parametrize(
    ("given", "step", "expected"),
    [
        ({"name": "linear", "final": 0.1}, 50, 0.55),
        ({"name": "cosine"}, 25, (1 + math.cos(math.pi / 4)) / 2),
        ({"name": "cosine", "warmup_share": 0.1}, 4, 5 / 11),
        ({"name": "inverse_sqrt", "warmup_steps": 4}, 16, 0.5),
        ({"name": "exponential", "gamma": 0.5}, 25, 0.25),
        ({"name": "step", "gamma": 0.5, "every_epochs": 2}, 45, 0.25),
    ],
)
def test_a_schedule_goes_as_it_says(given: dict[str, Any], step: int, expected: float) -> None:
    assert learning_rate_factor(ScheduleSpec.model_validate(given), step, 100, 10) == pytest.approx(expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_computes_shorter_and_keeps_weights_long(precision: Any) -> None:
    net = nn.Linear(4, 3)
    made = updater(net, precision=precision)
    rows = torch.randn(5, 4)
    with computing_in(precision, CPU):
        outputs = net(rows)
    assert outputs.dtype == (torch.bfloat16 if precision == "bf16" else torch.float16)
    before = net.weight.detach().clone()
    made.zero()
    made.backward(outputs.float().square().mean())
    made.apply()
    assert net.weight.dtype == torch.float32 and not torch.equal(net.weight, before)


def test_an_infinite_gradient_is_left_out_in_fp16() -> None:
    net = nn.Linear(4, 3)
    made = updater(net, precision="fp16")
    before = net.weight.detach().clone()
    made.zero()
    made.backward(net(torch.randn(5, 4)).sum() * float("inf"))
    made.apply()
    assert torch.equal(net.weight, before)


def test_the_scale_of_the_loss_goes_with_the_state() -> None:
    net, again = nn.Linear(4, 3), nn.Linear(4, 3)
    made, resumed = updater(net, precision="fp16"), updater(again, precision="fp16")
    fresh = made.scaling["scale"]
    for factor in (1.0, float("inf")):
        made.zero()
        made.backward(net(torch.randn(5, 4)).sum() * factor)
        made.apply()
    load_module_state(again, resumed, module_state(net, made))
    assert resumed.scaling == made.scaling
    assert resumed.scaling["scale"] < fresh


@pytest.mark.parametrize("architecture", [DECODER, RESNET], ids=["decoder", "resnet"])
def test_activations_that_are_computed_again_give_the_same_gradients(architecture: Architecture) -> None:
    plain, again = seeded(2, architecture), seeded(2, architecture)
    made_ready(again, spec(checkpoint_activations=True), CPU)
    rows = torch.randint(0, 7, (4, 6)) if architecture is DECODER else torch.randn(4, 16)
    for net in (plain, again):
        net(rows).square().sum().backward()
    assert plain.state_dict().keys() == again.state_dict().keys()
    for left, right in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad)
    with torch.inference_mode():
        torch.testing.assert_close(plain(rows), again(rows))


def test_a_model_without_blocks_cannot_compute_activations_again() -> None:
    net = seeded(1, Architecture(name="mlp", arguments={"inputs": 2, "classes": 2, "hidden": [3]}))
    with pytest.raises(RequestError, match="checkpoint_activations needs a model of blocks"):
        made_ready(net, spec(checkpoint_activations=True), CPU)


def test_compiling_without_a_compiler_is_refused() -> None:
    from torch._inductor import config, cpp_builder

    cpp_builder.get_cpp_compiler.cache_clear() if hasattr(cpp_builder.get_cpp_compiler, "cache_clear") else None
    # By torch's own means: a value put back by hand is gone for the compiler's later workers.
    with config.patch({"cpp.cxx": ("/nowhere/g++",)}), pytest.raises(RequestError, match="needs a C\\+\\+ compiler"):
        made_ready(nn.Linear(2, 2), spec(compile=True), CPU)


@pytest.mark.slow
def test_compiled_code_gives_the_same_and_keeps_the_names() -> None:
    plain, quick = seeded(2, RESNET), seeded(2, RESNET)
    made_ready(quick, spec(compile=True), CPU)
    rows = torch.randn(4, 16)
    for net in (plain, quick):
        net(rows).square().sum().backward()
    assert plain.state_dict().keys() == quick.state_dict().keys()
    for left, right in zip(plain.parameters(), quick.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-4, atol=1e-5)
