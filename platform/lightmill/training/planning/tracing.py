"""Where the bytes of a training step are: one step is computed without numbers, and every tensor's life is noted.

Fake tensors have the shapes, types and storages of real ones and no memory (torch's FakeTensorMode), so that a step of
a model larger than this machine can be followed, from the same code that trains. What kernels allocate inside
themselves, such as scratch space of matrix products, is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Kind = Literal["parameter", "gradient", "optimizer", "averaged", "buffer", "batch", "activation"]
BACKWARD = "<backward>"


@dataclass(slots=True, kw_only=True)
class Block:
    """One storage: its bytes, what it is for, and where in the model it belongs.

    `place` is the parameter's name, for its gradient and its optimizer's state too. Of an activation it is the name of
    the module that was computing, or `BACKWARD` for what is made between modules while gradients are computed.
    """

    size_bytes: int
    kind: Kind = "activation"
    place: str = ""


Weight = Callable[[Block], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The lives of all storages of two steps, the second of which is like all later ones.

    Attributes:
        blocks: All storages.
        events: In order, the number of a block that is made, or -1 - number of one that is freed.
        returned: Bytes of what each module with parameters returned in the last forward pass, by its name.
        kept_bytes: What is kept of each step until it is counted.
    """

    blocks: list[Block]
    events: list[int]
    returned: dict[str, int]
    kept_bytes: int

    def peak(self, weight: Weight = lambda _: 1.0) -> int:
        """Return the most bytes that were alive at once, each block weighted."""
        weights = [block.size_bytes * weight(block) for block in self.blocks]
        live = most = 0.0
        for event in self.events:
            live += weights[event] if event >= 0 else -weights[-1 - event]
            most = max(most, live)
        return round(most)

    def total(self, kind: Kind, weight: Weight = lambda _: 1.0) -> int:
        """Return the bytes of the blocks of a kind that are there at the end of a step."""
        freed = {-1 - event for event in self.events if event < 0}
        some = (block for number, block in enumerate(self.blocks) if block.kind == kind and number not in freed)
        return round(sum(block.size_bytes * weight(block) for block in some))


class Recorder(TorchDispatchMode):
    """Notes every storage that operations make while the `with` block runs, and when it goes."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[Block] = []
        self.events: list[int] = []
        self.returned: dict[str, int] = {}
        self._place: list[str] = [""]
        self._known: dict[int, tuple[int, weakref.ref[Any]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor):
                self._note(value)
        return out

    def mark(self, kind: Kind, tensors: Iterable[tuple[str, torch.Tensor | None]]) -> None:
        """Say what some tensors are for, and which parameter each belongs to."""
        for name, tensor in tensors:
            if tensor is not None and (number := self._number(tensor)) is not None:
                self.blocks[number].kind = kind
                self.blocks[number].place = name

    def watch(self, module: nn.Module) -> None:
        """Note which part of a module computes, and what parts with parameters return."""
        for name, part in module.named_modules():
            if name:
                part.register_forward_pre_hook(lambda _m, _i, name=name: self._place.append(name))
                part.register_forward_hook(
                    lambda found, _i, out, name=name: self._left(name, found, out), always_call=True
                )

    def trace(self, kept_bytes: int) -> Trace:
        """Return what was noted so far."""
        return Trace(
            blocks=list(self.blocks), events=list(self.events), returned=dict(self.returned), kept_bytes=kept_bytes
        )

    def _left(self, name: str, module: nn.Module, out: Any) -> None:
        self._place.pop()
        if any(True for _ in module.parameters()):
            self.returned[name] = sum(t.nbytes for t in tree_leaves(out) if isinstance(t, torch.Tensor))

    def _number(self, tensor: torch.Tensor) -> int | None:
        found = self._known.get(tensor.untyped_storage()._cdata)
        return None if found is None else found[0]

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        number = len(self.blocks)
        place = self._place[-1]
        if not place and torch._C._current_graph_task_id() != -1:
            place = BACKWARD
        self.blocks.append(Block(size_bytes=storage.nbytes(), place=place))
        self.events.append(number)

        def gone(_: object) -> None:
            self.events.append(-1 - number)
            self._known.pop(key, None)

        self._known[key] = (number, weakref.ref(storage, gone))


__all__ = ["BACKWARD", "Block", "Kind", "Recorder", "Trace", "Weight"]
