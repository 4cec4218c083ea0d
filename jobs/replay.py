"""Do a run again, and compare the weights with those that it registered.

Run: python jobs/replay.py replay.yaml            # run: train-digits-0123abcd
"""

from __future__ import annotations

import sys

from lightmill.records.jobs import JobKind
from lightmill.records.references import AssetKind
from lightmill.records.replay import ReplaySpec, version_of
from lightmill.registry import OpenVersion
from lightmill.wiring.job import JobContext, run_job
from lightmill.wiring.modules import training_functions


def work(context: JobContext, spec: ReplaySpec) -> dict[str, object]:
    """Replay; the job's id is the run's name."""
    from lightmill.training.fit import Watchers
    from lightmill.training.replay import replay

    report = replay(
        original(context, spec),
        context.job.id,
        context.platform.settings.runs_path.absolute(),
        context.platform.registry,
        context.platform.location,
        context.provenance,
        Watchers(report=context.report, on_epoch=context.on_epoch),
        allow_python=context.platform.settings.allow_python_steps,
    )
    return report.model_dump(mode="json")


def original(context: JobContext, spec: ReplaySpec) -> OpenVersion:
    """Open the model version that the run registered."""
    registry = context.platform.registry
    return registry.open(registry.resolve(AssetKind.MODEL, version_of(context.platform.catalog.jobs.get(spec.run))))


def functions(context: JobContext, spec: ReplaySpec) -> list[str]:
    """Name the functions of `python` steps that the dataset leaves for training."""
    dataset = original(context, spec).manifest.provenance.dataset
    return [] if dataset is None else training_functions(context.platform.registry.open(dataset))


if __name__ == "__main__":
    sys.exit(run_job(JobKind.REPLAY, ReplaySpec, lambda spec: spec.run, work, functions))
