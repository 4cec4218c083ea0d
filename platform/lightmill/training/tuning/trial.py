"""One trial, in the process that Ray Tune runs it in. Ray gets numbers and pointers; weights go into the vault."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Any, Literal

import ray.train
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from lightmill.datasets.translate import original_error
from lightmill.errors import LightmillError, RequestError, UnavailableError
from lightmill.records.assets import Provenance
from lightmill.records.base import Record
from lightmill.records.references import VersionId
from lightmill.records.tuning import TuneSpec
from lightmill.registry import RegistryLocation
from lightmill.training.fit import loop_config, make_trainer, prepare
from lightmill.training.loop import LoopConfig, run_epochs
from lightmill.training.placement import Placement
from lightmill.training.session import POINTER_FILE, Seal, read_pointer
from lightmill.training.team import Team
from lightmill.training.tuning.table import trial_run

POINTER, FAILED = "lightmill_checkpoint", "lightmill_failed"


class TrialPlacement(Record):
    """Where the workers of every trial go; see `Placement`."""

    workers: int
    most: int
    cpus: float
    gpus: float
    device: Literal["cuda", "cpu"]
    backend: Literal["nccl", "gloo"]
    labels: dict[str, str]
    spread: bool
    data_cpus: float

    @classmethod
    def of(cls, placement: Placement) -> TrialPlacement:
        """Return a placement as it travels."""
        return cls.model_validate({name: getattr(placement, name) for name in cls.model_fields})

    @property
    def placement(self) -> Placement:
        """The placement that travelled."""
        return Placement(**dict(self))


class TrialContext(Record):
    """What all trials of a job share; it is visible in Ray's state API and holds no secret."""

    spec: TuneSpec
    job: str
    runs_path: str
    location: RegistryLocation
    provenance: Provenance
    placement: TrialPlacement
    allow_python: bool = False


def trial_name(number: int) -> str:
    """Return what Ray Tune calls a trial."""
    return f"t{number:03d}"


def train_trial(config: dict[str, Any]) -> None:
    """Train a trial; what Ray Tune calls. An error of the caller's making is reported, since a retry would not help."""
    try:
        _train(TrialContext.model_validate_json(config["context"]), config["point"])
    except UnavailableError:
        raise
    except LightmillError as exc:
        tune.report({FAILED: exc.message})
    finally:
        gc.unfreeze()  # the process trains other trials after this one


def _train(context: TrialContext, point: dict[str, Any]) -> None:
    number = int(tune.get_context().get_trial_name()[1:])  # of this trial: a point may have come from another
    spec = context.spec.with_values(point["values"])
    prepared = prepare(spec, context.location.open(), context.location, allow_python=context.allow_python)
    placement = context.placement.placement
    run = trial_run(context.job, number)
    provenance = context.provenance.model_copy(update={"spec": spec.model_dump(mode="json"), "run": run})
    config = loop_config(prepared, placement, run, Path(context.runs_path), context.location, provenance)
    start = VersionId.model_validate(point["start"]) if point["start"] else None
    if placement.most > 1:
        _train_by_several(config, placement, Path(context.runs_path))
        return
    run_epochs(config, Team.alone(torch.device(placement.device)), TuneSession(context.spec.metric, start))


class TuneSession:
    """Ray Tune's session of a trial with one worker."""

    def __init__(self, metric: str, start: VersionId | None) -> None:
        self._metric = metric
        self._start = start

    def checkpoint(self) -> VersionId | None:
        """See `Session`: what Ray Tune goes on from, else what an earlier attempt left."""
        found = tune.get_checkpoint()
        return self._start if found is None else read_pointer(found)

    def report(self, metrics: dict[str, float], seal: Seal | None = None) -> None:
        """See `Session`."""
        _check_metric(self._metric, metrics)
        if seal is None:
            tune.report(dict(metrics))
            return
        pointer = seal().model_dump_json()
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, POINTER_FILE).write_text(pointer)
            tune.report({**metrics, POINTER: pointer}, checkpoint=tune.Checkpoint.from_directory(folder))


def _check_metric(metric: str, metrics: dict[str, float]) -> None:
    if metric not in metrics:
        raise RequestError(f"There is no metric {metric!r} to tune for; choose one of {', '.join(sorted(metrics))}.")


class TrialReporter(TuneReportCallback):
    """Hands on to Ray Tune what the leader of several workers reported; lives in Ray Train's controller."""

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: ray.train.Checkpoint | None
    ) -> None:
        """Send rank 0's metrics and the pointer to its checkpoint."""
        pointer = {} if checkpoint is None else {POINTER: read_pointer(checkpoint).model_dump_json()}
        self._training_actor_item_queue.put({**metrics[0], **pointer})


def _train_by_several(config: LoopConfig, placement: Placement, runs_path: Path) -> None:
    """Train a trial by a Ray Train of its own, which goes on from where its run stopped if that has begun."""
    try:
        make_trainer(config, placement, runs_path, TrialReporter()).fit()
    except ray.train.TrainingFailedError as exc:
        original = original_error(exc)
        if original is not None:
            raise type(original)(original.message) from exc
        raise
