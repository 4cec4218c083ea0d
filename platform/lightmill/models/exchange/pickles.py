"""Weights in pickles: refused, unless the user asks for a conversion, which happens behind fences.

A pickle is a program. It is read in a process of its own (`sandbox`), and what comes back through a pipe is a
safetensors file, checked like one from a stranger.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from lightmill.errors import RequestError
from lightmill.models.exchange.source import Weights, digest_of, open_regular, size_of
from lightmill.models.exchange.streams import TensorFile, read_header, read_tensors
from lightmill.registry.version import SAFETENSORS_FILE

REFUSAL = (
    "Reading a pickle runs the code in it, so it is refused. Ask its maker for safetensors, or let --convert-pickle "
    "convert it in a locked-down process that reads tensors only (torch's weights_only, no network, no files)."
)
TIMEOUT_S = 900
SPARE_BYTES = 1 << 30
ENDING_S = 5
STATUS_MAX_BYTES = 4096
logger = logging.getLogger("lightmill.exchange")


def pickled_weights(folder: Path, names: list[str]) -> tuple[Weights, ...]:
    """Return pickles as weights to convert: one becomes model.safetensors, several keep their numbers."""
    weights = []
    for name in names:
        path = folder / name
        with open_regular(path) as file:
            size = size_of(file)
        target = SAFETENSORS_FILE if len(names) == 1 else _shard_name(name)
        weights.append(
            Weights(source=name, size_bytes=size, sha256=digest_of(path), open=partial(convert, path, target))
        )
    return tuple(weights)


def _shard_name(name: str) -> str:
    numbered = re.search(r"-(\d{5}-of-\d{5})\.[a-z]+$", name)
    return f"model-{numbered[1]}.safetensors" if numbered else f"{Path(name).stem}.safetensors"


@contextmanager
def convert(path: Path, target: str, *, timeout_s: float = TIMEOUT_S) -> Iterator[TensorFile]:
    """Read a pickle as a safetensors stream out of the sandbox.

    Raises:
        RequestError: torch refuses it as more than tensors, it breaks a limit, or it takes longer than
            `timeout_s` seconds.
    """
    with open_regular(path) as file:
        size = size_of(file)
        limits = {"memory_bytes": 3 * size + SPARE_BYTES, "cpu_s": int(timeout_s), "data_bytes": 2 * size + (1 << 20)}
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-B", "-m", "lightmill.models.exchange.sandbox", json.dumps(limits)],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            cwd="/",
        )
    assert process.stdout is not None  # noqa: S101 - a pipe, for the type checker
    watchdog = threading.Timer(timeout_s, process.kill)
    watchdog.start()
    try:
        _say_fences(process.stdout.readline(STATUS_MAX_BYTES), path.name)
        with _explained(process, path.name):
            header = read_header(process.stdout, None, path.name, limits["data_bytes"])  # pyright: ignore
            tensors = read_tensors(process.stdout, header, path.name)  # pyright: ignore
            yield TensorFile(path=target, header=header.raw, data_bytes=header.data_bytes, tensors=tensors)
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


@contextmanager
def _explained(process: subprocess.Popen[bytes], name: str) -> Iterator[None]:
    """Turn a stream that broke off into what the sandbox said about it."""
    try:
        yield
    except RequestError as exc:
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDING_S)
        process.kill()
        _, said = process.communicate()
        if process.returncode == 0:
            raise
        reason = said.decode(errors="replace").strip().splitlines()[-1:] or [f"it ended with {process.returncode}"]
        raise RequestError(
            f"{name} was not converted: {reason[0][:400]}. It holds more than tensors, is damaged, or needs more "
            "memory or time than a file of its size should. Nothing of it was run outside the locked-down process."
        ) from exc


def _say_fences(line: bytes, name: str) -> None:
    try:
        stand = json.loads(line)
    except ValueError:
        return  # the stream that follows is empty, and the reason is told there
    missing = [fence for fence in ("network", "files") if not stand.get(fence)]
    if missing:
        logger.warning(
            "%s is converted without a fence around: %s (this system does not allow it here); the process has no "
            "secrets, cannot open a file or a socket, and reads tensors only",
            name,
            ", ".join(missing),
        )


def _environment() -> dict[str, str]:
    """Return the sandbox's environment: where Python finds its modules, and nothing else."""
    modules = os.pathsep.join(part for part in sys.path if part)
    return {"PYTHONPATH": modules, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
