"""`python -m lightmill.models.exchange.sandbox LIMITS`: a pickle on standard input, safetensors on standard output.

Run by `lightmill.models.exchange.pickles` in a process of its own. Whatever the pickle does, it does here:
without a network, without the file system, without a new file descriptor, process or file, with limits on
memory and time, with an environment that holds no secrets. And torch reads it with `weights_only`, which
builds tensors and plain containers and calls nothing else.

The first line out is JSON: which of the fences stand. Then comes a safetensors file, tensor by tensor.
"""

# ruff: noqa: T201 - standard output and error are this process's way to speak

from __future__ import annotations

import ctypes
import io
import json
import os
import resource
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # at run time only behind the first fence
    import torch

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
NO_NEW_PRIVILEGES, SET_DUMPABLE = 38, 4
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_VERSION_FLAG = 1
LANDLOCK_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Landlock's version to how many rights over files it knows (linux/landlock.h)."""
STANDARD_DESCRIPTORS = 3


def cut_network() -> bool:
    """Move to a network namespace without interfaces; it needs a process with one thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    return any(libc.unshare(flags) == 0 for flags in (NEW_USER | NEW_NETWORK, NEW_NETWORK))


def cut_files() -> bool:
    """Give up every right over files that are not open yet (Landlock: a rule set that allows nothing)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return False
    version = libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION_FLAG)
    if version < 1:
        return False
    rights = LANDLOCK_RIGHTS[min(version, max(LANDLOCK_RIGHTS))]
    handled = ctypes.c_uint64((1 << rights) - 1)
    rules = libc.syscall(LANDLOCK_CREATE_RULESET, ctypes.byref(handled), ctypes.sizeof(handled), 0)
    if rules < 0:
        return False
    done = libc.syscall(LANDLOCK_RESTRICT_SELF, rules, 0)
    os.close(rules)
    return done == 0


def address_space() -> int:
    """Return the bytes of address space that this process uses now."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def limit(memory_bytes: int, cpu_s: int) -> None:
    """Limit memory and time; allow no new descriptor, process, file or core dump."""
    for kind, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, STANDARD_DESCRIPTORS),
    ):
        resource.setrlimit(kind, (value, value))


def main() -> int:
    """Convert; the exit code is 0 when a whole file was written."""
    limits = json.loads(sys.argv[1])
    network = cut_network()  # before torch, which may start threads
    import torch

    from lightmill.registry.tensors import plain_tensors, safetensors_header

    _warm_up()
    memory = address_space() + limits["memory_bytes"]
    files = cut_files()
    limit(memory, limits["cpu_s"])
    out = sys.stdout.buffer
    out.write(json.dumps({"network": network, "files": files}).encode() + b"\n")
    out.flush()
    try:
        found = torch.load(sys.stdin.buffer, map_location="cpu", weights_only=True)
        tensors = plain_tensors(_state_of(found))
        size = sum(tensor.data.nbytes for tensor in tensors)
        if size > limits["data_bytes"]:
            raise ValueError(f"its tensors have {size} bytes, over the limit of {limits['data_bytes']}")
        header = safetensors_header(tensors)
        out.write(struct.pack("<Q", len(header)) + header)
        for tensor in tensors:
            out.write(tensor.data)
        out.flush()
    except Exception as exc:  # noqa: BLE001 - whatever a hostile file raises ends here, in one line
        print(f"{type(exc).__name__}: {exc}".replace("\n", " ")[:400], file=sys.stderr)
        return 1
    return 0


def _warm_up() -> None:
    """Use every part once, so that nothing has to be imported behind the fences."""
    import torch

    from lightmill.registry.tensors import plain_tensors

    data = io.BytesIO()
    torch.save({"a": torch.zeros(2), "b": torch.zeros(2, dtype=torch.bfloat16)}, data)
    data.seek(0)
    plain_tensors(torch.load(data, map_location="cpu", weights_only=True))
    old = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, old, _use_new_zipfile_serialization=False)
    old.seek(0)
    torch.load(old, map_location="cpu", weights_only=True)


def _state_of(found: object) -> dict[str, torch.Tensor]:
    """Return the tensors by name, from a state dict or from a checkpoint that holds one."""
    import torch

    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict):
        raise TypeError("it holds no state dict")
    state = {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not state or any(value.layout != torch.strided or value.is_quantized for value in state.values()):
        raise TypeError("it holds no tensors by name, or sparse or quantized ones")
    return state


if __name__ == "__main__":
    sys.exit(main())
