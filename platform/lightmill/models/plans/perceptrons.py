"""Plans of perceptrons: linear layers are split by columns and by rows in turns."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from lightmill.errors import RequestError
from lightmill.models.plans.port import Plan, Together, check_divide, cut_points
from lightmill.models.tabular import Tabular

_ELEMENTWISE = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Dropout, nn.Identity)


class PerceptronPlan(Plan):
    """Linear layers one after another: split by columns and by rows in turns."""

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        """See the base."""
        if not isinstance(module, nn.Sequential):
            return False
        return all(isinstance(layer, (nn.Linear, *_ELEMENTWISE)) for layer in module) and bool(linears_of(module))

    def __init__(self, module: nn.Module) -> None:
        self._module = cast(nn.Sequential, module)

    @property
    def layers(self) -> int:
        """See the base."""
        return len(linears_of(self._module))

    def stage(self, number: int, stages: int) -> nn.Module:
        """See the base."""
        mine = cut_points(self.layers, stages)[number]
        found: list[tuple[str, nn.Module]] = []
        linear = -1
        for name, layer in self._module.named_children():
            linear += isinstance(layer, nn.Linear)
            if max(linear, 0) in mine:
                found.append((name, layer))
        return nn.Sequential(OrderedDict(found))

    def check_tensor(self, size: int, *, sequence: bool) -> None:
        """See the base."""
        if sequence:
            raise RequestError("strategy.sequence is true, but rows of features are no sequence; leave it out.")
        linears = linears_of(self._module)
        check_divide({f"hidden[{place}]": layer.out_features for place, layer in enumerate(linears[:-1])}, size)

    def split(self, module: nn.Module, mesh: DeviceMesh, *, sequence: bool) -> None:
        """See the base."""
        linears = linears_of(cast(nn.Sequential, module))
        for place, layer in enumerate(linears):
            last = place == len(linears) - 1
            columns = ColwiseParallel(output_layouts=Replicate() if last else Shard(-1))
            parallelize_module(layer, mesh, RowwiseParallel() if place % 2 else columns)


def linears_of(module: nn.Sequential) -> list[nn.Linear]:
    """Return the linear layers in their order."""
    return [layer for layer in module if isinstance(layer, nn.Linear)]


class TabularPlan(Plan):
    """The perceptron with embeddings, which belong to the first stage and are whole on tensor parallel workers."""

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        """See the base."""
        return isinstance(module, Tabular)

    def __init__(self, module: nn.Module) -> None:
        self._module = cast(Tabular, module)
        self._inner = PerceptronPlan(self._module.layers)

    @property
    def layers(self) -> int:
        """See the base."""
        return self._inner.layers

    def stage(self, number: int, stages: int) -> nn.Module:
        """See the base."""
        layers = cast(nn.Sequential, self._inner.stage(number, stages))
        if number:
            return nn.Sequential(OrderedDict(layers=layers))
        self._module.layers = layers
        return self._module

    def check_tensor(self, size: int, *, sequence: bool) -> None:
        """See the base."""
        self._inner.check_tensor(size, sequence=sequence)

    def split(self, module: nn.Module, mesh: DeviceMesh, *, sequence: bool) -> None:
        """See the base."""
        if isinstance(module, Tabular):
            for embedding in module.embeddings:
                parallelize_module(embedding, mesh, Together(Replicate()))
        self._inner.split(module.get_submodule("layers"), mesh, sequence=sequence)
