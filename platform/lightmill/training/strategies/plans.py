"""How models are split, a plan for each architecture; `PLANS` has them all.

A plan says between which layers a pipeline may cut, which matrices tensor parallel workers have a part of, and whether
the tokens of a row may be computed by several workers. Sources: M. Shoeybi et al., "Megatron-LM: Training multi-billion
parameter language models using model parallelism" (2019), for the pairs of matrices split by columns, then by rows;
V. Korthikanti et al., "Reducing activation recomputation in large transformer models" (2022), for what lies between.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, ClassVar, cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn import functional

from lightmill.errors import RequestError
from lightmill.models.decoder import Block, Decoder, attention_mask


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


# -- decoder ------------------------------------------------------------------


class DecoderPlan(Plan):
    """The decoder: heads and feed-forward values are split; so is the vocabulary, of embedding and logits."""

    extras = ("segments",)
    context = True

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        """See the base."""
        return isinstance(module, Decoder)

    def __init__(self, module: nn.Module) -> None:
        self._module = cast(Decoder, module)

    @property
    def layers(self) -> int:
        """See the base."""
        return self._module.sizes.layers

    def stage(self, number: int, stages: int) -> nn.Module:
        """See the base."""
        return DecoderStage(
            self._module,
            cut_points(self.layers, stages)[number],
            first=number == 0,
            last=number == stages - 1,
        )

    def check_tensor(self, size: int, *, sequence: bool) -> None:
        """See the base."""
        sizes = self._module.sizes
        wanted = {"heads": sizes.heads, "kv_heads": sizes.kv_heads, "feed_forward": sizes.feed_forward}
        if sequence:
            wanted["context"] = sizes.context
        check_divide(wanted, size)
        check_vocabulary(sizes.vocabulary, size)

    def split(self, module: nn.Module, mesh: DeviceMesh, *, sequence: bool) -> None:
        """See the base."""
        module = cast(Decoder | DecoderStage, module)
        between = Shard(1) if sequence else Replicate()
        if module.embedding is not None:
            parallelize_module(
                module.embedding, mesh, RowwiseParallel(input_layouts=Replicate(), output_layouts=between)
            )
        for block in blocks_of(module):
            _split_block(block, mesh, between)
        if module.norm is not None:
            tied = module.head is None
            parallelize_module(module.norm, mesh, Together(between, Replicate(), local=not tied))
        if module.head is not None:
            parallelize_module(module.head, mesh, ColwiseParallel(output_layouts=Replicate()))
        if isinstance(module, DecoderStage) and module.copied:
            module.copied[0] = nn.Parameter(distribute_tensor(module.copied[0].detach(), mesh, [Shard(0)]))

    def shared(self) -> tuple[str, str] | None:
        """See the base."""
        return ("embedding.weight", "copied") if self._module.sizes.tied else None

    def gather_with(self, gather: Any) -> None:
        """See the base."""
        for block in blocks_of(self._module):
            block.attention.gather = gather


class DecoderStage(nn.Module):
    """Consecutive layers of a decoder, with its names: the first has the embedding, the last norm and logits.

    Attributes:
        copied: On the last stage of a tied decoder, its copy of the embedding; not a parameter of the stage, since it
            belongs to the first.
    """

    cosine: torch.Tensor
    sine: torch.Tensor

    def __init__(self, whole: Decoder, layers: range, *, first: bool, last: bool) -> None:
        super().__init__()
        self.sizes = whole.sizes
        self.embedding = whole.embedding if first else None
        self.blocks = nn.ModuleDict({str(number): whole.blocks[number] for number in layers})
        self.norm = whole.norm if last else None
        self.head = whole.head if last else None
        self.copied = [nn.Parameter(whole.embedding.weight.detach().clone())] if last and whole.sizes.tied else []
        self.register_buffer("cosine", whole.cosine, persistent=False)
        self.register_buffer("sine", whole.sine, persistent=False)

    def forward(self, values: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
        """Return [batch, length, width], of the last stage logits; see `Decoder.forward`."""
        length = values.shape[1]
        rotary = (self.cosine[:length], self.sine[:length])
        mask = None if segments is None else attention_mask(segments)
        if self.embedding is not None:
            values = self.embedding(values)
        for block in self.blocks.values():
            values = block(values, rotary, mask)
        if self.norm is None:
            return values
        values = self.norm(values)
        return self.head(values) if self.head is not None else functional.linear(values, self.copied[0])


def blocks_of(module: Decoder | DecoderStage) -> list[Block]:
    """Return the blocks of a decoder or of a stage of one."""
    found: Iterable[nn.Module] = module.blocks if isinstance(module, Decoder) else module.blocks.values()
    return [block for block in found if isinstance(block, Block)]


def _split_block(block: Block, mesh: DeviceMesh, between: Placement) -> None:
    whole = Replicate()
    parallelize_module(
        block,
        mesh,
        {
            "attention_norm": Together(between),
            "attention": PrepareModuleInput(
                input_layouts=(between, None, None), desired_input_layouts=(whole, None, None)
            ),
            **{f"attention.{name}": ColwiseParallel() for name in ("query", "key", "value")},
            "attention.out": RowwiseParallel(output_layouts=between),
            "feed_forward_norm": Together(between),
            "feed_forward": PrepareModuleInput(input_layouts=(between,), desired_input_layouts=(whole,)),
            **{f"feed_forward.{name}": ColwiseParallel() for name in ("gate", "up")},
            "feed_forward.down": RowwiseParallel(output_layouts=between),
        },
    )
    block.attention.heads //= mesh.size()
    block.attention.kv_heads //= mesh.size()


# -- perceptron ---------------------------------------------------------------

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


# -- all ----------------------------------------------------------------------

PLANS: list[type[Plan]] = [DecoderPlan, PerceptronPlan]


def plan_of(module: nn.Module) -> Plan | None:
    """Return the plan of a whole module, if its architecture has one."""
    return next((kind(module) for kind in PLANS if kind.fits(module)), None)


def check_divide(values: dict[str, int], size: int) -> None:
    """Refuse the first of some sizes of an architecture that does not divide."""
    for name, value in values.items():
        if value % size:
            raise RequestError(
                f"architecture.arguments.{name} is {value}, which does not divide by {size} tensor parallel workers; "
                f"use a multiple of {size}, or another size of the strategy."
            )


def check_vocabulary(vocabulary: int, size: int) -> None:
    """Refuse a vocabulary of which the last worker would get nothing."""
    if -(-vocabulary // size) * (size - 1) >= vocabulary:
        raise RequestError(
            f"architecture.arguments.vocabulary is {vocabulary}, which leaves one of {size} tensor parallel workers "
            f"without tokens; set it to {-(-vocabulary // size) * size}, or use another size of the strategy."
        )


def layers_of(module: nn.Module) -> list[nn.Module]:
    """Return what is gathered at a time where parameters are sharded: the members of a module's outermost lists.

    Embeddings and normalizations stay with the module itself.
    """
    found: list[nn.Module] = []
    listed = isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential)
    for child in module.children():
        matrices = any(parameter.ndim > 1 for parameter in child.parameters())
        if isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential) or not listed:
            found += layers_of(child)
        elif matrices and not isinstance(child, nn.Embedding):
            found.append(child)
    return found
