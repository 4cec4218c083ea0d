"""Runs that can be repeated: seeds by place in the run, deterministic kernels, what was computed on."""

from __future__ import annotations

import os

import pytest
import torch

from lightmill.registry.tensors import safetensors_digest
from lightmill.training.repeating import deterministic_kernels, hardware_of, seed_at
from lightmill.training.team import Team


def drawn(*place: int) -> list[float]:
    seed_at(*place)
    return torch.rand(4).tolist()


def test_each_place_of_a_run_has_draws_of_its_own_and_always_the_same() -> None:
    places = [(seed, rank, epoch, step) for seed in (0, 1) for rank in (0, 1) for epoch in (0, 1) for step in (0, 1)]
    found = {place: tuple(drawn(*place)) for place in places}
    assert len(set(found.values())) == len(places)
    assert all(tuple(drawn(*place)) == found[place] for place in reversed(places))
    assert drawn(-3, 0, 0) == drawn(-3, 0, 0)


def test_deterministic_kernels_refuse_others_and_only_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic_kernels(True):
        assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        with pytest.raises(RuntimeError, match="deterministic"):
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic_kernels(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_hardware_is_named() -> None:
    found = hardware_of(Team(rank=0, world=3, device=torch.device("cpu")))
    assert found.workers == 3 and found.threads == torch.get_num_threads()
    assert found.machine and found.capability and found.device == ""


def test_digests_tell_weights_apart_by_bits_and_names() -> None:
    state = {"a": torch.arange(4.0), "b": torch.ones(2, dtype=torch.int64)}
    digest = safetensors_digest(state)
    assert digest == safetensors_digest({"b": state["b"].clone(), "a": state["a"].clone()})
    nudged = state["a"].clone()
    nudged[3] = torch.nextafter(nudged[3], torch.tensor(9.0))
    assert digest != safetensors_digest({**state, "a": nudged})
    assert digest != safetensors_digest({"c": state["a"], "b": state["b"]})
