"""More metrics, computed by the package torchmetrics from the outputs of all workers.

Outputs and targets are gathered before anything is computed, so that a metric is that of one process with all rows, and
every worker comes to the same numbers.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from lightmill.errors import RequestError
from lightmill.training.objectives import Objective, Step

OF_CLASSES = {
    "f1": ("F1Score", {"average": "macro"}),
    "precision": ("Precision", {"average": "macro"}),
    "recall": ("Recall", {"average": "macro"}),
    "specificity": ("Specificity", {"average": "macro"}),
    "auroc": ("AUROC", {"average": "macro"}),
    "average_precision": ("AveragePrecision", {"average": "macro"}),
    "cohen_kappa": ("CohenKappa", {}),
    "matthews": ("MatthewsCorrCoef", {}),
    "calibration_error": ("CalibrationError", {}),
}
OF_NUMBERS = {
    "r2": ("R2Score", {}),
    "explained_variance": ("ExplainedVariance", {}),
    "mape": ("MeanAbsolutePercentageError", {}),
    "pearson": ("PearsonCorrCoef", {}),
    "spearman": ("SpearmanCorrCoef", {}),
    "concordance": ("ConcordanceCorrCoef", {}),
}


class Scores:
    """The metrics that were asked for besides those that an objective counts."""

    def __init__(self, objective: Objective, device: torch.device | None = None) -> None:
        """Prepare; `check_scores` was called before."""
        self._objective = objective
        self._device = device or torch.device("cpu")
        self._kept: list[Step] = []

    def add(self, steps: Sequence[Step]) -> None:
        """Keep outputs and targets."""
        if self._objective.scores:
            self._kept += steps

    def found(self, *, together: bool = True) -> dict[str, float]:
        """Return the metrics by name, over all workers unless this process is alone; all workers call it."""
        if not self._objective.scores:
            return {}
        outputs, targets = self._mine()
        if together and dist.is_initialized() and dist.get_world_size() > 1:
            outputs, targets = gathered(outputs, self._device), gathered(targets, self._device)
        outputs, targets = outputs.cpu(), targets.cpu()
        return {name: self._one(name, outputs, targets) for name in self._objective.scores}

    def _mine(self) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = self._objective.task == "numbers"
        width = 1 if numbers else int(self._objective.architecture.arguments["classes"])  # pyright: ignore[reportArgumentType]
        none = (torch.zeros(0, width), torch.zeros(0, dtype=torch.float32 if numbers else torch.int64))
        parts = [none] + [(step.kept[0].float().cpu(), step.kept[1].cpu()) for step in self._kept if step.kept]
        outputs, targets = zip(*parts, strict=True)
        return torch.cat(outputs), torch.cat(targets)

    def _one(self, name: str, outputs: torch.Tensor, targets: torch.Tensor) -> float:
        metric = make(name, self._objective)
        if self._objective.task == "numbers":
            return float(metric(outputs[:, 0], targets))
        given = torch.sigmoid(outputs[:, 0]) if outputs.shape[1] == 1 else torch.softmax(outputs, dim=1)
        if outputs.shape[1] == 2:
            given = given[:, 1]
        return float(metric(given, targets))


def check_scores(objective: Objective) -> None:
    """Refuse metrics that cannot be computed.

    Raises:
        RequestError: One is unknown, or torchmetrics is not installed.
    """
    known = OF_NUMBERS if objective.task == "numbers" else OF_CLASSES
    for name in objective.scores:
        if name not in known:
            raise RequestError(
                f"metrics: {name!r} is unknown to `objective: {objective.name}`; choose of {', '.join(sorted(known))}. "
                f"It measures {', '.join(objective.measures)} anyway."
            )
        make(name, objective)


def make(name: str, objective: Objective) -> Any:
    """Return a metric of torchmetrics; RequestError if it is not installed."""
    try:
        package = importlib.import_module("torchmetrics")
    except ImportError as exc:
        raise RequestError(
            f"metrics: {name!r} needs the package torchmetrics ({exc}). Install it with: pip install "
            "'lightmill[metrics]', or take it out of `metrics`."
        ) from exc
    alone: dict[str, Any] = {"sync_on_compute": False}
    if objective.task == "numbers":
        kind, more = OF_NUMBERS[name]
        return getattr(package, kind)(**more, **alone)
    kind, more = OF_CLASSES[name]
    classes = len(objective.classes)
    if classes == 2:
        return getattr(package, kind)(task="binary", **{k: v for k, v in more.items() if k != "average"}, **alone)
    return getattr(package, kind)(task="multiclass", num_classes=classes, **more, **alone)


def gathered(mine: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the rows of all workers, worker after worker, on the CPU; they may have differing numbers of rows."""
    world = dist.get_world_size()
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    dist.all_gather(counts, torch.tensor([len(mine)], device=device))
    sizes = [int(count) for count in counts]
    padded = torch.zeros(max(sizes), *mine.shape[1:], dtype=mine.dtype, device=device)
    padded[: len(mine)] = mine.to(device)
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).cpu()
