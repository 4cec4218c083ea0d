"""Ingest a source into a new sealed dataset version.

Run: python jobs/ingest.py examples/digits/dataset.yaml
     ray job submit --working-dir . -- python jobs/ingest.py examples/digits/dataset.yaml
"""

from __future__ import annotations

import sys

from lightmill.records.assets import DatasetCard
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.jobs import JobKind
from lightmill.records.preparation import Python
from lightmill.wiring.job import JobContext, run_job


def work(context: JobContext, spec: DatasetSpec) -> dict[str, object]:
    """Ingest; a relative source path is taken from the specification's folder."""
    from lightmill.datasets.ingest import ingest

    spec = spec.with_policy(context.platform.policies.settle)
    for path in spec.local_paths():
        context.refuse_own_files(context.folder / path)
    summary = ingest(
        spec,
        context.folder,
        context.platform.registry,
        context.platform.location,
        context.provenance.model_copy(update={"spec": spec.model_dump(mode="json")}),
        context.report,
        context.platform.settings.home / "ingest",
        allow_python=context.platform.settings.allow_python_steps,
    )
    card = DatasetCard.model_validate(summary.card)
    profile = card.profile
    return {
        "dataset_version": str(summary.id),
        "digest": summary.id.digest,
        "content_digest": card.content_digest,
        "profile": profile.model_dump(mode="json", exclude={"columns"}),
    }


def functions(context: JobContext, spec: DatasetSpec) -> list[str]:
    """Name the functions of `python` steps."""
    return [step.function for step in spec.prepare if isinstance(step, Python)]


if __name__ == "__main__":
    sys.exit(run_job(JobKind.INGEST, DatasetSpec, lambda spec: spec.name, work, functions))
