"""The table of trials while a tuning job runs: pure changes of records, kept by whoever is told."""

from __future__ import annotations

from collections.abc import Callable

from lightmill.errors import RequestError
from lightmill.records.references import VersionId
from lightmill.records.specs import TrainSpec
from lightmill.records.tuning import Trial, TrialState, TrialTable, TuneSpec, Values
from lightmill.training.tuning.limits import Judged

Keep = Callable[[TrialTable], None]


def trial_run(job: str, number: int) -> str:
    """Return the name of a trial's run."""
    return f"{job}-t{number:03d}"


class Table:
    """The trials of a job by number; every change is handed to `keep`."""

    def __init__(self, spec: TuneSpec, job: str, keep: Keep, known: TrialTable | None = None) -> None:
        """Begin with no trials, or with those of an earlier attempt: what was running waits again."""
        self._job = known.job if known else job
        self._keep = keep
        self._head = TrialTable(
            job=self._job,
            metric=spec.metric,
            mode=spec.direction,
            wanted=spec.trial_count,
            algorithm=spec.algorithm.name,
        )
        self._trials: dict[int, Trial] = {}
        for trial in known.trials if known else ():
            again = trial.state == "running"
            self._trials[trial.number] = trial.model_copy(update={"state": "waiting"}) if again else trial

    @property
    def job(self) -> str:
        """The job whose name runs begin with."""
        return self._job

    @property
    def record(self) -> TrialTable:
        """The table as it is."""
        best = self.best
        trials = tuple(self._trials[number] for number in sorted(self._trials))
        return self._head.model_copy(update={"trials": trials, "best": best.number if best else None})

    @property
    def best(self) -> Trial | None:
        """The best trial so far, the earlier one of equals."""
        measured = [trial for trial in self._trials.values() if trial.metric is not None]
        sign = 1 if self._head.mode == "min" else -1
        return min(measured, key=lambda trial: (sign * (trial.metric or 0.0), trial.number), default=None)

    @property
    def taken(self) -> int:
        """How many trials are trained or to be trained: those that were not refused."""
        return sum(trial.state != "refused" for trial in self._trials.values())

    @property
    def ended(self) -> int:
        """How many trials have trained to their end."""
        return sum(trial.ended and trial.state != "refused" for trial in self._trials.values())

    def __len__(self) -> int:
        return len(self._trials)

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    def waiting(self) -> list[Trial]:
        """Return the trials that are to be trained yet, in order."""
        return [self._trials[number] for number in sorted(self._trials) if self._trials[number].state == "waiting"]

    def add(self, values: Values, judged: Judged) -> Trial:
        """Add a configuration with what was found of it."""
        number = len(self._trials)
        trial = Trial(
            number=number,
            values=values,
            state="refused" if judged.reason else "waiting",
            reason=judged.reason,
            run="" if judged.reason else trial_run(self._job, number),
            parameters=judged.parameters,
            latency_ms=judged.latency_ms,
        )
        self._put(trial)
        return trial

    def began(self, number: int) -> None:
        """A trial trains."""
        self._change(number, state="running")

    def reported(
        self, number: int, epoch: int, metrics: dict[str, float], checkpoint: VersionId | None, values: Values
    ) -> Trial:
        """A trial ended an epoch with values that population based training may have changed.

        Raises:
            RequestError: The metric that is tuned for is not among them.
        """
        if self._head.metric not in metrics:
            raise RequestError(
                f"There is no metric {self._head.metric!r} to tune for; choose one of {', '.join(sorted(metrics))}."
            )
        trial, value = self._trials[number], metrics[self._head.metric]
        update: dict[str, object] = {
            "state": "running",
            "epochs": epoch,
            "last_checkpoint": checkpoint,
            "values": values,
            "copied": trial.copied + (values != trial.values),
        }
        sign = 1 if self._head.mode == "min" else -1
        if trial.metric is None or sign * value < sign * trial.metric:
            update |= {
                "metric": value,
                "best_epoch": epoch,
                "metrics": metrics,
                "checkpoint": checkpoint,
                "best_values": values,
            }
        self._put(trial.model_copy(update=update))
        return self._trials[number]

    def sealed(self, number: int, checkpoint: VersionId) -> None:
        """The checkpoint of a trial's best epoch is known now."""
        self._change(number, checkpoint=checkpoint)

    def finished(self, number: int, state: TrialState, reason: str = "") -> None:
        """A trial will not change any more."""
        self._change(number, state=state, reason=reason)

    def _change(self, number: int, **update: object) -> None:
        self._put(self._trials[number].model_copy(update=update))

    def _put(self, trial: Trial) -> None:
        self._trials[trial.number] = trial
        self._keep(self.record)


def end_state(trial: Trial, spec: TrainSpec) -> TrialState:
    """Return how a trial ended that no error ended: done, or stopped before its last epoch."""
    return "done" if trial.epochs >= spec.epochs else "stopped"
