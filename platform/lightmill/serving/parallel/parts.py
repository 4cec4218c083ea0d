"""One rank's part of a model: built without memory for the rest, its weights read from the sealed version.

What a rank reads of the store:

- `pipeline`: the tensors of its layers. The last stage of a model that uses its embedding twice reads that too.
- `tensor`: of a tensor that is split, its share of the rows, whichever way it is split. A matrix split by columns has a
  little of every row in each part, and so of nearly every sealed segment; its ranks read rows instead and exchange
  them. What all ranks have, such as normalizations, each reads whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from lightmill.models.plans import Plan, plan_of
from lightmill.records.parallel import ParallelSpec
from lightmill.records.signature import Architecture
from lightmill.registry import OpenVersion
from lightmill.registry.tensors import check_fit, load_slices, load_tensors
from lightmill.serving.parallel.checking import check_parallel, check_plan, outline


class Reading:
    """Reads a version's tensors, whole or by rows, and counts.

    Attributes:
        bytes: How many bytes of tensors were read.
    """

    def __init__(self, version: OpenVersion) -> None:
        self.version = version
        self.bytes = 0

    def whole(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return tensors; see `load_tensors`."""
        return self._counted(load_tensors(self.version, names))

    def rows(self, wanted: Mapping[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
        """Return rows of tensors; see `load_slices`."""
        return self._counted(load_slices(self.version, wanted))

    def _counted(self, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.bytes += sum(value.nbytes for value in found.values())
        return found


def pipeline_part(
    reading: Reading, architecture: Architecture, rank: int, spec: ParallelSpec, device: torch.device
) -> nn.Module:
    """Return the layers of a rank, with their weights.

    Raises:
        RequestError: The architecture has no plan, or fewer layers than ranks.
        IntegrityError: Stored bytes are not what was written, or the architecture is not the version's.
    """
    module, plan = _outlined(reading.version, architecture, spec)
    stage = plan.stage(rank, spec.ranks)
    shared = plan.shared()
    copied = getattr(stage, shared[1], None) if shared else None
    wanted = [*stage.state_dict(), *(shared[:1] if shared and copied else ())]
    loaded = reading.whole(wanted)
    if shared and copied:
        copied[0] = _frozen(loaded.pop(shared[0]).to(device))
    del module
    return _filled(stage, loaded, device)


def tensor_part(reading: Reading, architecture: Architecture, mesh: DeviceMesh, spec: ParallelSpec) -> nn.Module:
    """Return the module with a rank's part of each matrix, on the mesh's device; all ranks call it together.

    Raises:
        RequestError: The architecture has no plan, or something of it does not divide by the ranks.
        IntegrityError: Stored bytes are not what was written, or the architecture is not the version's.
    """
    module, plan = _outlined(reading.version, architecture, spec)
    plan.split(module, mesh, sequence=False)
    divided = {
        name: value
        for name, value in module.state_dict().items()
        if isinstance(value, DTensor) and not isinstance(value.placements[0], Replicate)
    }
    rows = {name: _rows(value, mesh) for name, value in divided.items()}
    shares = reading.rows(rows)
    found = reading.whole([name for name in module.state_dict() if name not in divided])
    for name, value in module.state_dict().items():
        if name in divided:
            share = _dtensor(shares.pop(name), value, Shard(0), mesh)
            found[name] = share.redistribute(placements=value.placements)
        elif isinstance(value, DTensor):
            found[name] = _dtensor(found[name], value, Replicate(), mesh)
    module.register_forward_hook(_whole)
    return _filled(module, found, torch.device(mesh.device_type))


def _outlined(version: OpenVersion, architecture: Architecture, spec: ParallelSpec) -> tuple[nn.Module, Plan]:
    module = outline(architecture)
    check_fit(version, module.state_dict())
    plan = plan_of(module)
    if plan is None:
        check_parallel(architecture, spec)
        raise AssertionError("a module without a plan is refused")
    check_plan(plan, architecture, spec)
    return module, plan


def _rows(value: DTensor, mesh: DeviceMesh) -> tuple[int, int]:
    """Return the rows [start, stop) of a tensor that a rank reads, of the last ranks perhaps none."""
    (count, *_), (start, *_) = compute_local_shape_and_global_offset(value.shape, mesh, [Shard(0)])
    first = min(start, value.shape[0])
    return first, first + count


def _dtensor(local: torch.Tensor, outlined: DTensor, placement: Placement, mesh: DeviceMesh) -> DTensor:
    shape, stride = outlined.shape, outlined.stride()
    return DTensor.from_local(
        local.to(mesh.device_type), mesh, [placement], run_check=False, shape=shape, stride=stride
    )


def _filled(module: nn.Module, values: Mapping[str, torch.Tensor], device: torch.device) -> nn.Module:
    """Replace what has no memory, and put the rest onto the device."""
    stored = set(module.state_dict())
    for name, value in values.items():
        owner, _, last = name.rpartition(".")
        holder = module.get_submodule(owner)
        if any(found is getattr(holder, last) for found in holder.parameters(recurse=False)):
            holder.register_parameter(last, _frozen(value.to(device)))
        else:
            holder.register_buffer(last, value.to(device))
    for name, buffer in list(module.named_buffers()):
        if name not in stored:
            owner, _, last = name.rpartition(".")
            module.get_submodule(owner).register_buffer(last, buffer.to(device), persistent=False)
    return module.eval()


def _frozen(value: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)


def _whole(_: nn.Module, __: Any, output: Any) -> Any:
    return output.full_tensor() if isinstance(output, DTensor) else output
