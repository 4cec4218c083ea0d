"""Plans of the transformers: heads and feed-forward values are split, and so is the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn import functional

from lightmill.models.decoder import Block, Decoder, attention_mask
from lightmill.models.encoder import Encoder, seen
from lightmill.models.plans.port import Plan, Together, check_divide, check_vocabulary, cut_points


class TransformerPlan(Plan):
    """What plans share of modules with `sizes`, `embedding`, `blocks`, `norm` and `head`."""

    extras = ("segments",)

    def __init__(self, module: nn.Module) -> None:
        self._module = cast(Decoder | Encoder, module)

    @property
    def layers(self) -> int:
        """See the base."""
        return self._module.sizes.layers

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
        found = cast("Decoder | Encoder | _Stage", module)
        between = Shard(1) if sequence else Replicate()
        if found.embedding is not None:
            parallelize_module(
                found.embedding, mesh, RowwiseParallel(input_layouts=Replicate(), output_layouts=between)
            )
        for block in blocks_of(found):
            _split_block(block, mesh, between)
        if found.norm is not None:
            # Logits of a tied embedding are a product of DTensors.
            parallelize_module(found.norm, mesh, Together(between, Replicate(), local=found.head is not None))
        if found.head is not None:
            parallelize_module(found.head, mesh, self._head())

    def _head(self) -> ParallelStyle:
        """Return how the outputs are split."""
        return Together(Replicate())


class DecoderPlan(TransformerPlan):
    """The decoder, whose tokens may be computed by several workers as well."""

    context = True

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        """See the base."""
        return isinstance(module, Decoder)

    def stage(self, number: int, stages: int) -> nn.Module:
        """See the base."""
        return DecoderStage(cast(Decoder, self._module), number, stages)

    def split(self, module: nn.Module, mesh: DeviceMesh, *, sequence: bool) -> None:
        """See the base."""
        super().split(module, mesh, sequence=sequence)
        if isinstance(module, DecoderStage) and module.copied:
            module.copied[0] = nn.Parameter(distribute_tensor(module.copied[0].detach(), mesh, [Shard(0)]))

    def shared(self) -> tuple[str, str] | None:
        """See the base."""
        return ("embedding.weight", "copied") if self._module.sizes.tied else None

    def gather_with(self, gather: Any) -> None:
        """See the base."""
        for block in blocks_of(self._module):
            block.attention.gather = gather

    def _head(self) -> ParallelStyle:
        return ColwiseParallel(output_layouts=Replicate())


class EncoderPlan(TransformerPlan):
    """The encoder, of which every tensor parallel worker has the few outputs."""

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        """See the base."""
        return isinstance(module, Encoder)

    def stage(self, number: int, stages: int) -> nn.Module:
        """See the base."""
        return EncoderStage(cast(Encoder, self._module), number, stages)


class _Stage(nn.Module):
    """Consecutive layers of a transformer, with its names: the first has the embedding, the last norm and outputs."""

    cosine: torch.Tensor
    sine: torch.Tensor

    def __init__(self, whole: Decoder | Encoder, number: int, stages: int) -> None:
        super().__init__()
        first, last = number == 0, number == stages - 1
        self.sizes = whole.sizes
        self.embedding = whole.embedding if first else None
        layers = cut_points(whole.sizes.layers, stages)[number]
        self.blocks = nn.ModuleDict({str(layer): whole.blocks[layer] for layer in layers})
        self.norm = whole.norm if last else None
        self.head = whole.head if last else None
        self.register_buffer("cosine", whole.cosine, persistent=False)
        self.register_buffer("sine", whole.sine, persistent=False)

    def through(self, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return what the blocks of this stage make of values [batch, length, width]."""
        length = mask.shape[-1] if mask is not None else values.shape[1]
        rotary = (self.cosine[:length], self.sine[:length])
        for block in self.blocks.values():
            values = block(values, rotary, mask)
        return values


class DecoderStage(_Stage):
    """A stage of a decoder.

    Attributes:
        copied: On the last stage of a tied decoder, its copy of the embedding; not a parameter of the stage, since it
            belongs to the first.
    """

    def __init__(self, whole: Decoder, number: int, stages: int) -> None:
        super().__init__(whole, number, stages)
        copies = self.norm is not None and whole.sizes.tied
        self.copied = [nn.Parameter(whole.embedding.weight.detach().clone())] if copies else []

    def forward(self, values: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
        """Return [batch, length, width], of the last stage logits; see `Decoder.forward`."""
        mask = None if segments is None else attention_mask(segments)
        values = self.through(values if self.embedding is None else self.embedding(values), mask)
        if self.norm is None:
            return values
        values = self.norm(values)
        return self.head(values) if self.head is not None else functional.linear(values, self.copied[0])


class EncoderStage(_Stage):
    """A stage of an encoder."""

    def __init__(self, whole: Encoder, number: int, stages: int) -> None:
        super().__init__(whole, number, stages)
        self.pooling = whole.pooling
        self.dropout = whole.dropout

    def forward(self, values: torch.Tensor, segments: torch.Tensor | None = None) -> torch.Tensor:
        """Return [batch, length, width], of the last stage [batch, classes]; see `Encoder.forward`."""
        there = seen(values if values.ndim == 2 else values[:, :, 0], segments)
        values = values if self.embedding is None else self.dropout(self.embedding(values))
        values = self.through(values, there[:, None, None, :])
        if self.norm is None or self.head is None:
            return values
        return self.head(self.dropout(Encoder.pooled(cast(Encoder, self), self.norm(values), there)))


def blocks_of(module: Decoder | Encoder | _Stage) -> list[Block]:
    """Return the blocks of a transformer or of a stage of one."""
    found: Iterable[nn.Module] = module.blocks.values() if isinstance(module.blocks, nn.ModuleDict) else module.blocks
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
