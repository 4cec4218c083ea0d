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
from lightmill.errors import IntegrityError, LightmillError, RequestError, UnavailableError
from lightmill.records.assets import Provenance
from lightmill.records.base import Record
from lightmill.records.references import VersionId
from lightmill.records.specs import TrainSpec
from lightmill.records.training import CheckpointSpec
from lightmill.records.tuning import TuneSpec
from lightmill.registry import RegistryLocation
from lightmill.training.fit import loop_config, make_trainer, prepare
from lightmill.training.following import new_epochs
from lightmill.training.loop import LoopConfig, run_epochs
from lightmill.training.placement import Placement
from lightmill.training.team import Team
from lightmill.training.tuning.table import trial_run

POINTER_FILE = "version.json"
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
    spec = _keeping_all(context.spec.with_values(point["values"]))
    registry = context.location.open()
    prepared = prepare(spec, registry, context.location, allow_python=context.allow_python)
    placement = context.placement.placement
    run, runs_path = trial_run(context.job, number), Path(context.runs_path)
    origin = prepared.described(context.provenance, run).model_copy(update={"spec": spec.model_dump(mode="json")})
    config = loop_config(prepared, placement, run, runs_path, context.location, origin)
    if placement.most > 1:
        _train_by_several(config, placement, runs_path)
        return
    start = VersionId.model_validate(point["start"]) if point["start"] else None
    run_epochs(config, Team.alone(torch.device(placement.device)), TuneSession(context.spec.metric, start))


def _keeping_all(spec: TrainSpec) -> TrainSpec:
    """Return a specification whose checkpoints stay until the job deletes them, each sealed before the next step.

    Which one is the best is a matter of the metric that is tuned for, and a trial may go on from another's.
    """
    many = CheckpointSpec(every_steps=spec.checkpoints.every_steps, pause_s=0, keep_last=1_000_000, asynchronous=False)
    return spec.model_copy(update={"checkpoints": many})


class TuneSession:
    """Ray Tune's session of a trial with one worker. What an epoch measured is reported with its checkpoint."""

    watched = False

    def __init__(self, metric: str, start: VersionId | None) -> None:
        self._metric = metric
        self._start = start
        self._waiting: dict[str, float] | None = None

    def checkpoint(self) -> VersionId | None:
        """See `Session`: what Ray Tune goes on from, else what an earlier attempt left."""
        found = tune.get_checkpoint()
        return self._start if found is None else read_pointer(Path(found.path))

    def report(self, epochs: list[dict[str, float]]) -> None:
        """See `Session`; without a pause between checkpoints there is one epoch."""
        _check_metric(self._metric, epochs[-1])
        self._waiting = dict(epochs[-1])

    def published(self, id: VersionId) -> None:
        """See `Session`: the epoch's checkpoint is there. Ray Tune may end the trial here."""
        metrics, self._waiting = self._waiting, None
        if metrics is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, POINTER_FILE).write_text(id.model_dump_json())
            pointer = tune.Checkpoint.from_directory(folder)
            tune.report({**metrics, POINTER: id.model_dump_json()}, checkpoint=pointer)

    def report_again(self, epochs: list[dict[str, float]]) -> None:
        """See `Session`: an epoch is reported with its checkpoint, so that none is lost."""

    def preempted(self) -> bool:
        """See `Session`: Ray Tune does not tell."""
        return False


def read_pointer(folder: Path) -> VersionId:
    """Return the run's version that a checkpoint of Ray Tune points at.

    Raises:
        IntegrityError: The pointer is missing or damaged.
    """
    try:
        return VersionId.model_validate_json((folder / POINTER_FILE).read_text())
    except (OSError, ValueError) as exc:
        raise IntegrityError(f"The checkpoint pointer in {folder} is missing or damaged.") from exc


def _check_metric(metric: str, metrics: dict[str, float]) -> None:
    if metric not in metrics:
        raise RequestError(f"There is no metric {metric!r} to tune for; choose one of {', '.join(sorted(metrics))}.")


class TrialReporter(TuneReportCallback):
    """Hands on to Ray Tune what the leader of several workers reported; lives in Ray Train's controller."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[int] = set()

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: ray.train.Checkpoint | None
    ) -> None:
        """Send rank 0's metrics; the epoch's checkpoint is sealed only then."""
        for found in new_epochs(metrics[0], self._told):
            self._told.add(int(found["epoch"]))
            self._training_actor_item_queue.put({**found, POINTER: ""})


def _train_by_several(config: LoopConfig, placement: Placement, runs_path: Path) -> None:
    """Train a trial by a Ray Train of its own, which goes on from where its run stopped if that has begun."""
    try:
        make_trainer(config, placement, runs_path, TrialReporter()).fit()
    except ray.train.TrainingFailedError as exc:
        original = original_error(exc)
        if original is not None:
            raise type(original)(original.message) from exc
        raise
