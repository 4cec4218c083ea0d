"""Configurations are judged before they train: whether they are valid, small enough and fast enough."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from lightmill.datasets.reading import read_rows
from lightmill.errors import RequestError
from lightmill.models.architectures import build_module, parameter_count
from lightmill.records.tuning import LimitSpec, TuneSpec, Values
from lightmill.registry import Registry, RegistryLocation
from lightmill.training.fit import Prepared, prepare

WARM_PASSES, PASSES = 3, 15
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A configuration that can be prepared; `reason` is why it is refused, with what was found of its model."""

    prepared: Prepared | None = None
    reason: str = ""
    parameters: int | None = None
    latency_ms: float | None = None


class Judge:
    """Judges configurations of one tuning job, on one row of the validation split."""

    def __init__(
        self, spec: TuneSpec, registry: Registry, location: RegistryLocation, *, allow_python: bool = False
    ) -> None:
        self._spec = spec
        self._registry = registry
        self._location = location
        self._allow_python = allow_python

    def judge(self, values: Values) -> Judged:
        """Judge a configuration; one that cannot be trained at all is refused like one that breaks a limit."""
        try:
            spec = self._spec.with_values(values)
            prepared = prepare(spec, self._registry, self._location, allow_python=self._allow_python)
        except RequestError as exc:
            return Judged(reason=exc.message)
        with torch.device("meta"):
            parameters = parameter_count(build_module(prepared.objective.architecture, allow_python=self._allow_python))
        latency = None
        if self._spec.limits.latency_ms is not None and within(self._spec.limits, parameters, None) is None:
            latency = self._latency(prepared)
        return Judged(
            prepared=prepared,
            reason=within(self._spec.limits, parameters, latency) or "",
            parameters=parameters,
            latency_ms=latency,
        )

    def _latency(self, prepared: Prepared) -> float:
        row = read_rows(prepared.dataset, self._location, "validation", limit=1)
        batch = prepared.rows.batch(row)
        module = build_module(prepared.objective.architecture, allow_python=self._allow_python)
        return latency_ms(module, lambda one: prepared.objective.step(one, batch))


def within(limits: LimitSpec, parameters: int, latency: float | None) -> str | None:
    """Return which limit is broken, None if none is."""
    if limits.parameters is not None and parameters > limits.parameters:
        return f"{parameters:,} parameters are more than the limit of {limits.parameters:,}"
    if limits.latency_ms is not None and latency is not None and latency > limits.latency_ms:
        return f"{latency:.3g} ms for a row are more than the limit of {limits.latency_ms:g} ms"
    return None


def latency_ms(module: nn.Module, forward: Callable[[nn.Module], object], clock: Clock = time.perf_counter) -> float:
    """Return the median milliseconds of a forward pass on the CPU, on one thread as a replica has by default."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    module.eval()
    try:
        with torch.inference_mode():
            for _ in range(WARM_PASSES):
                forward(module)
            return statistics.median(_timed(module, forward, clock) for _ in range(PASSES)) * 1e3
    finally:
        torch.set_num_threads(threads)


def _timed(module: nn.Module, forward: Callable[[nn.Module], object], clock: Clock) -> float:
    begun = clock()
    forward(module)
    return clock() - begun
