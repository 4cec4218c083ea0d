"""Train a model from a specification and register its best checkpoint.

Run: python jobs/train.py examples/digits/train.yaml
     ray job submit --working-dir . -- python jobs/train.py examples/digits/train.yaml
"""

from __future__ import annotations

import sys

from lightmill.records.jobs import JobKind
from lightmill.records.references import AssetKind, parse_reference
from lightmill.records.specs import TrainSpec
from lightmill.wiring.job import JobContext, run_job
from lightmill.wiring.modules import training_functions


def work(context: JobContext, spec: TrainSpec) -> dict[str, object]:
    """Train; the job's id is the run's name."""
    from lightmill.training.fit import Watchers, train

    notes: list[str] = []
    summary = train(
        spec,
        context.job.id,
        context.platform.settings.runs_path.absolute(),
        context.platform.registry,
        context.platform.location,
        context.provenance,
        Watchers(
            report=context.report,
            on_epoch=context.on_epoch,
            on_steps=context.on_steps,
            recorded=context.recorded,
            note=notes.append,
        ),
        allow_python=context.platform.settings.allow_python_steps,
    )
    found: dict[str, object] = {"notes": notes} if notes else {}
    return {"model_version": str(summary.id), "digest": summary.id.digest, "metrics": summary.metrics, **found}


def functions(context: JobContext, spec: TrainSpec) -> list[str]:
    """Name the functions of the specification, and of `python` steps that the dataset leaves for training."""
    registry = context.platform.registry
    version = registry.resolve(AssetKind.DATASET, parse_reference(spec.dataset))
    return [*spec.functions, *training_functions(registry.open(version))]


if __name__ == "__main__":
    sys.exit(run_job(JobKind.TRAIN, TrainSpec, lambda spec: spec.model, work, functions))
