"""Event files for TensorBoard in the run's folder on the driver's node: names and values of metrics, in plain."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lightmill.errors import RequestError
from lightmill.records.jobs import EpochMetrics, StepMetrics
from lightmill.training.watching.loggers import MetricsLogger

FOLDER = "tensorboard"


class TensorBoard(MetricsLogger):
    """Scalars `step/<metric>` by step and `epoch/<metric>` by epoch."""

    def __init__(self, run_folder: Path) -> None:
        """Begin an event file.

        Raises:
            RequestError: The package is missing.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as exc:
            raise RequestError("`watch.tensorboard` needs an extra: pip install 'lightmill[tensorboard]'.") from exc
        self._writer: Any = SummaryWriter(log_dir=str(run_folder / FOLDER))

    def steps(self, points: Sequence[StepMetrics]) -> None:
        """See the base."""
        for point in points:
            self._add("step", point.step, point.metrics, point.created)

    def epoch(self, metrics: EpochMetrics) -> None:
        """See the base."""
        self._add("epoch", metrics.epoch, metrics.metrics, metrics.created)

    def close(self, *, succeeded: bool) -> None:
        """See the base."""
        del succeeded
        self._writer.close()

    def _add(self, kind: str, number: int, metrics: dict[str, float], created: str) -> None:
        at = datetime.fromisoformat(created).timestamp()
        for name, value in metrics.items():
            self._writer.add_scalar(f"{kind}/{name}", value, number, walltime=at)
        self._writer.flush()
