"""The interface of plans, and what they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, distribute_module
from torch.distributed.tensor.parallel import ParallelStyle

from lightmill.errors import RequestError


class Plan(ABC):
    """How one module, or a stage of it, is split.

    Attributes:
        extras: The names of what the module takes beside its first input; every stage takes them too.
        context: Whether `forward` takes `part`, a slice of the positions that are computed.
    """

    extras: ClassVar[tuple[str, ...]] = ()
    context: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def fits(cls, module: nn.Module) -> bool:
        """Say whether this is the plan of a module."""

    @abstractmethod
    def __init__(self, module: nn.Module) -> None:
        """Look at a whole module that fits."""

    @property
    @abstractmethod
    def layers(self) -> int:
        """The layers between which a pipeline may cut."""

    @abstractmethod
    def stage(self, number: int, stages: int) -> nn.Module:
        """Return consecutive layers under the names they have in the whole; it takes what the stage before returns."""

    @abstractmethod
    def check_tensor(self, size: int, *, sequence: bool) -> None:
        """Refuse a size of tensor parallelism with RequestError if something does not divide by it."""

    @abstractmethod
    def split(self, module: nn.Module, mesh: DeviceMesh, *, sequence: bool) -> None:
        """Make the parameters of the module, or of a stage of it, DTensors over a mesh of one direction.

        What goes in and out stays whole; the last output may be a DTensor.
        """

    def shared(self) -> tuple[str, str] | None:
        """Return the name of a weight that the first and the last stage both use, and that of the last one's copy."""
        return None

    def gather_with(self, gather: Any) -> None:
        """Let attention see the keys and values of workers that compute other positions."""
        raise NotImplementedError


class Together(ParallelStyle):
    """Parameters that every worker has, applied to the whole input or to each worker's part of it."""

    def __init__(self, layout: Placement, out: Placement | None = None, *, local: bool = True) -> None:
        super().__init__()
        self._layout, self._out, self._local = layout, out or layout, local

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        return distribute_module(module, device_mesh, None, self._enter, self._leave)

    def _enter(self, _: nn.Module, inputs: Any, mesh: DeviceMesh) -> Any:
        return DTensor.from_local(inputs[0], mesh, [self._layout], run_check=False)

    def _leave(self, _: nn.Module, output: Any, mesh: DeviceMesh) -> Any:
        found = output.redistribute(mesh, [self._out])
        return found.to_local() if self._local else found


def cut_points(layers: int, stages: int) -> list[range]:
    """Return the layers of each stage, as even as can be, earlier ones larger."""
    sizes = [layers // stages + (place < layers % stages) for place in range(stages)]
    starts = [sum(sizes[:place]) for place in range(stages)]
    return [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def check_divide(values: dict[str, int], size: int) -> None:
    """Refuse the first of some sizes of an architecture that does not divide."""
    for name, value in values.items():
        if value % size:
            raise RequestError(
                f"architecture.arguments.{name} is {value}, which does not divide by {size} tensor parallel workers; "
                f"use a multiple of {size}, or another number of parts."
            )


def check_vocabulary(vocabulary: int, size: int) -> None:
    """Refuse a vocabulary of which the last worker would get nothing."""
    if -(-vocabulary // size) * (size - 1) >= vocabulary:
        raise RequestError(
            f"architecture.arguments.vocabulary is {vocabulary}, which leaves one of {size} tensor parallel workers "
            f"without tokens; set it to {-(-vocabulary // size) * size}, or use another number of parts."
        )
