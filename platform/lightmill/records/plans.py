"""What `lightmill plan` says of a run before it starts."""

from __future__ import annotations

from lightmill.records.base import Record


class NodeRoom(Record):
    """A node that workers could go to. `memory_bytes` is what Ray has of it, or of one GPU; None if nobody knows."""

    name: str
    cpus: float
    gpus: float
    memory_bytes: int | None = None


class StrategyPlan(Record):
    """What one strategy would take. Bytes are those of the worker that needs most.

    `refused` says why it cannot be; then the rest is empty. `other_bytes` are messages, copies, and outputs that wait
    to be counted, `rows_bytes` the rows that a worker keeps, `server_bytes` what a parameter server needs beside.
    `sent_bytes` is what a worker sends in a step, `step_s` and `run_s` are None without a probe, and `fits` is None
    where no node's memory is known.
    """

    strategy: str
    refused: str = ""
    chosen: bool = False
    layout: str = ""
    parameter_bytes: int = 0
    gradient_bytes: int = 0
    optimizer_bytes: int = 0
    activation_bytes: int = 0
    other_bytes: int = 0
    rows_bytes: int = 0
    total_bytes: int = 0
    server_bytes: int = 0
    sent_bytes: int = 0
    all_sent_bytes: int = 0
    step_s: float | None = None
    run_s: float | None = None
    fits: bool | None = None
    why_not: str = ""


class TrainPlan(Record):
    """A run before it starts. `placement` says where workers would go, or why they cannot.

    `probe_rows` of a part were timed, in `probe_steps` steps; 0 if nothing was.
    """

    model: str
    dataset: str
    parameters: int
    trained_parameters: int
    workers: int
    batch_size: int
    steps_per_epoch: int
    steps: int
    precision: str
    link_gbits: float
    probe_rows: int = 0
    probe_steps: int = 0
    placement: str
    placed: bool
    nodes: tuple[NodeRoom, ...]
    strategies: tuple[StrategyPlan, ...]
    notes: tuple[str, ...] = ()
