"""Search the fields of a training specification for the best, and register the best trial.

Run: python jobs/tune.py examples/digits/tune.yaml
     ray job submit --working-dir . -- python jobs/tune.py examples/digits/tune.yaml
"""

from __future__ import annotations

import sys

from lightmill.records.jobs import JobKind
from lightmill.records.references import AssetKind, parse_reference
from lightmill.records.tuning import TrialTable, TuneSpec
from lightmill.wiring.job import JobContext, run_job
from lightmill.wiring.modules import training_functions

TABLE = "tuning"


def work(context: JobContext, spec: TuneSpec) -> dict[str, object]:
    """Tune; the job's row has the table of trials while it runs, which a job that resumes it goes on from."""
    from lightmill.training.fit import Watchers
    from lightmill.training.tuning.search import Memory, Place, search

    platform, known = context.platform, (context.earlier or context.job).result.get(TABLE)
    found = search(
        spec,
        Place(
            job=context.job.id,
            runs_path=platform.settings.runs_path.absolute(),
            registry=platform.registry,
            location=platform.location,
        ),
        context.provenance,
        Watchers(report=context.report, on_epoch=context.on_epoch),
        lambda table: context.note({TABLE: table.model_dump(mode="json")}),
        Memory(table=TrialTable.model_validate(known) if known else None, epochs_of=platform.catalog.runs.epochs),
        allow_python=platform.settings.allow_python_steps,
    )
    version = found.version
    return {
        "model_version": str(version.id),
        "digest": version.id.digest,
        "metrics": version.metrics,
        TABLE: found.table.model_dump(mode="json"),
    }


def functions(context: JobContext, spec: TuneSpec) -> list[str]:
    """Name the functions of the specification, and of `python` steps that the dataset leaves for training."""
    registry = context.platform.registry
    version = registry.resolve(AssetKind.DATASET, parse_reference(spec.train.dataset))
    return [*spec.train.functions, *training_functions(registry.open(version))]


if __name__ == "__main__":
    sys.exit(run_job(JobKind.TUNE, TuneSpec, lambda spec: spec.train.model, work, functions))
