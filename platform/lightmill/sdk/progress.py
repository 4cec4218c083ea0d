"""A bar that shows how far a job is, in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from lightmill.records.jobs import EpochMetrics, Job, Progress


class JobBar:
    """Shows a job while it runs; `show` is for `jobs.wait`.

    Example: `with JobBar() as bar: client.jobs.wait(job.id, on_progress=bar.show)`.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._bars = progress_bars(console)
        self._task = self._bars.add_task("job", total=None, count="", detail="waiting")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def show(self, job: Job, epochs: list[EpochMetrics]) -> None:
        """Show a job as it is now."""
        now = job.progress
        done, total = (now.done, now.total) if now.total else (now.bytes_done, now.bytes_total)
        self._bars.update(
            self._task,
            description=f"{job.kind} {job.name}",
            completed=(total or 1) if job.state.final else done,
            total=(total or 1) if job.state.final else total or None,
            count=_count(now),
            detail="done" if job.state.final else _detail(job, epochs),
        )


def progress_bars(console: Console | None = None) -> Bars:
    """Return bars on standard error, or another console, whose tasks have fields `count` and `detail`."""
    return Bars(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console or Console(stderr=True),
    )


def _count(now: Progress) -> str:
    of = f"/{now.total:,}" if now.total else ""
    return f"{now.done:,}{of} {now.unit}" if now.done or now.total else ""


def _detail(job: Job, epochs: list[EpochMetrics]) -> str:
    now = job.progress
    if not job.started:
        return str(job.state)
    said = [now.phase]
    if now.phase == "train" and (epochs or now.metrics):
        said = list(_shown(epochs[-1].metrics if epochs else {}, now.metrics))
    if now.rate is not None:
        said.append(f"{now.rate:,.0f} {now.unit}/s")
    if now.eta_s is not None:
        said.append(f"{now.eta_s:,.0f} s left")
    return "  ".join(said)


def _shown(epoch: dict[str, float], newest: dict[str, float]) -> Iterator[str]:
    """Yield the loss, what the validation says besides, and how fast it goes."""
    names = {"loss": "loss", "validation_accuracy": "accuracy", "validation_perplexity": "perplexity"}
    metrics = epoch | newest
    yield from (f"{short} {metrics[name]:.4f}" for name, short in names.items() if name in metrics)
    rates = {"rows_per_second": "rows/s", "tokens_per_second": "tokens/s"}
    yield from (f"{newest[name]:,.0f} {short}" for name, short in rates.items() if name in newest)
