"""Ingest a source into a new sealed dataset version.

Run: python jobs/ingest.py examples/digits/dataset.yaml
     ray job submit --working-dir . -- python jobs/ingest.py examples/digits/dataset.yaml
"""

from __future__ import annotations

import sys

from lightmill.records.assets import DatasetCard
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.jobs import JobKind
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
    )
    profile = DatasetCard.model_validate(summary.card).profile
    return {
        "dataset_version": str(summary.id),
        "digest": summary.id.digest,
        "profile": profile.model_dump(mode="json", exclude={"columns"}),
    }


if __name__ == "__main__":
    sys.exit(run_job(JobKind.INGEST, DatasetSpec, lambda spec: spec.name, work))
