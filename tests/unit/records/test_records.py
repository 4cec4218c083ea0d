"""Every record goes through JSON and comes back equal, is frozen, and refuses an unknown key."""

from __future__ import annotations

import importlib
import math
import pkgutil
from typing import Any

import pytest
from pydantic import ValidationError

import lightmill.records
from lightmill.records import annotations, assets, care, endpoints, jobs, platform, references, search, signature, specs
from lightmill.records.base import Record, now_iso
from lightmill.records.references import AssetKind, VersionId
from tests.unit.records.access_examples import ACCESS
from tests.unit.records.data_examples import DATA
from tests.unit.records.plan_examples import PLANS
from tests.unit.records.quality_examples import EXAMPLES
from tests.unit.records.serving_examples import SERVING
from tests.unit.records.training_examples import TRAINING
from tests.unit.records.tuning_examples import TUNING
from tests.unit.records.version_examples import VERSIONS

VERSION = VersionId(kind=AssetKind.DATASET, name="d", seq=3, digest="ab" * 32)
TENSOR = signature.TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
PREPROCESSING = signature.Preprocessing(steps=(signature.Standardize(mean=(0.1,), scale=(3e-7,)),))
ARCHITECTURE = signature.Architecture(name="mlp", arguments={"hidden": [4, 5], "dropout": 0.5, "bias": True, "n": "x"})
SIGNATURE = signature.Signature(inputs=(TENSOR,), outputs=(TENSOR,))
PIECE = assets.Piece(blob="aa", offset=0, length=9)
BLOB = assets.BlobEntry(id="aa", key="00" * 32, length=9, size=153, dedup="ff")
PROVENANCE = assets.Provenance(
    dataset=VERSION,
    run="r",
    job="j",
    code=assets.CodeState(commit="c0ffee", dirty=True),
    packages={"ray": "2"},
    spec={"a": {"b": [1, 2.5, None, "ä"]}},
)
COLUMN = assets.ColumnProfile(
    name="p", dtype="int64", count=3, missing=1, minimum=0.0, maximum=1e300, mean=0.1, std=0.2
)
PROFILE = assets.Profile(
    rows_in=9, rows_kept=8, dropped={"missing value": 1}, splits={"train": 8}, classes={"a": 8}, columns=(COLUMN,)
)
DATASET_CARD = assets.DatasetCard(
    features=TENSOR,
    classes=("a", "b"),
    preprocessing=PREPROCESSING,
    source_columns=("p",),
    sources=(assets.SourceFile(name="s", size_bytes=1, sha256="00"),),
    profile=PROFILE,
)
MODEL_CARD = assets.ModelCard(
    architecture=ARCHITECTURE,
    preprocessing=PREPROCESSING,
    signature=SIGNATURE,
    classes=("a",),
    metrics={"x": 0.1 + 0.2},
)
RUN_CARD = assets.RunCard(model="m", epoch=2, metrics={"loss": 1e-300})
REF = assets.BlobRef(id="aa", size=1)
SIGNED = {"store": "s", "workspace": "w", "mid": "m", "created": "now", "publisher": "p", "nonce": "n"}
EVALUATION = annotations.Evaluation(dataset=VERSION, split="test", metrics={"a/b": 0.1}, created="now", by="run r")
TEXT = annotations.CardText(description="d", limitations="l")
NOTES = annotations.Notes(stage=annotations.Stage.STAGING, tags={"team": "ä 1"}, text=TEXT, evaluations=(EVALUATION,))
DELETION = assets.Deletion(at="now", reason="why", publisher="p")
SUMMARY = assets.VersionSummary(
    id=VERSION, mid="m", created="now", size_bytes=1, metrics={"a": 0.1}, provenance=PROVENANCE, card={"x": [1]}
)
ASSET = assets.AssetSummary(
    kind=AssetKind.MODEL, name="m", mid="x", versions=2, latest=3, created="a", updated="b", aliases={"c": 1}
)
CHILD = assets.LineageChild(id=VERSION, endpoints=("e",))
QUERY = search.parse_query("a tag:b=c stage:none dataset:d@1 alias:e metrics.f>=1 created>=2026-01-31")
ENDPOINT_SPEC = specs.EndpointSpec(name="e", model="m@3")

FINDING = care.Finding(problem=care.Problem.DAMAGED, object="b/x", versions=("m@1",), detail="its digest differs")
CHECK = care.CheckReport(
    store="s",
    deep=True,
    sample=50.0,
    seed=3,
    assets=1,
    versions=2,
    deleted=0,
    aliases=1,
    objects=9,
    objects_read=4,
    bytes_read=100,
    marks=3,
    findings=(FINDING,),
)
BACKUP = care.BackupReport(
    source="s", target="t", store="id", versions=2, deleted=0, copied=3, copied_bytes=100, present=1, verified=3
)
REBUILD = care.RebuildReport(assets=1, versions=2, aliases=1, unreadable=("m@2",))
RECORDS: list[Record] = [
    VERSION,
    references.Reference(name="a"),
    TENSOR,
    SIGNATURE,
    *PREPROCESSING.steps,
    PREPROCESSING,
    ARCHITECTURE,
    PIECE,
    BLOB,
    assets.TensorEntry(name="t", dtype="BF16", shape=(), pieces=(PIECE,)),
    assets.FileEntry(path="p", size=1, sha256="00", object="aa", rows=3, group="train"),
    PROVENANCE.code,
    PROVENANCE,
    COLUMN,
    PROFILE,
    *DATASET_CARD.sources,
    DATASET_CARD,
    MODEL_CARD,
    RUN_CARD,
    assets.Manifest(
        kind=AssetKind.RUN,
        name="r",
        seq=1,
        created="now",
        parent=None,
        provenance=PROVENANCE,
        blobs=(BLOB,),
        dataset=DATASET_CARD,
        model=MODEL_CARD,
        run=RUN_CARD,
    ),
    REF,
    assets.CommitRecord(**SIGNED, seq=2, parent="aa", manifest=REF, blobs=(REF, REF)),
    assets.AliasEntry(**SIGNED, alias="a", n=1, parent=None, seq=2, record="aa"),
    assets.Tombstone(**SIGNED, seq=2, record="aa", reason="why"),
    annotations.Annotation(**SIGNED, n=2, parent="aa", seq=2, record="aa", sealed="AA=="),
    annotations.TagsChanged(set={"a": "b"}, unset=("c",)),
    annotations.StageChanged(stage=annotations.Stage.PRODUCTION, required=("a>=1",), evidence=EVALUATION),
    annotations.TextChanged(description="d", limitations=""),
    annotations.Evaluated(evaluation=EVALUATION),
    EVALUATION,
    TEXT,
    NOTES,
    DELETION,
    SUMMARY,
    SUMMARY.model_copy(update={"stage": annotations.Stage.ARCHIVED, "tags": {"a": "b"}, "deleted": DELETION}),
    ASSET,
    assets.AliasMove(alias="a", n=2, at="now", source=0, target=1, publisher="p"),
    assets.AssetDetail(asset=ASSET, versions=(SUMMARY,)),
    assets.VersionDetail(version=SUMMARY, notes=NOTES, dataset=None, endpoints=("e",), derived=("model m@1",)),
    CHILD,
    assets.Lineage(
        version=SUMMARY,
        dataset=SUMMARY,
        base=None,
        sources=DATASET_CARD.sources,
        endpoints=("e",),
        children=(CHILD,),
    ),
    platform.PlatformStatus(
        version="1",
        store="s",
        resources={"CPU": 2.0},
        free={},
        nodes=1,
        models=1,
        datasets=1,
        endpoints={"ready": 1},
        jobs_running=0,
    ),
    FINDING,
    CHECK,
    BACKUP,
    care.CollectReport(applied=True, mark=1, live=2, garbage=1, young=0, leased=0, waiting=0, removed=("b/x",)),
    care.Repair(object="b/x", source="file:///backup"),
    care.RepairReport(repaired=(), lost=(FINDING,), healed=1, catalog=True),
    REBUILD,
    care.RestoreReport(copy_report=BACKUP, rebuilt=REBUILD, check=CHECK),
    QUERY,
    *QUERY.tags,
    *QUERY.datasets,
    *QUERY.metrics,
    *QUERY.created,
    search.SearchOrder(key="metrics.a"),
    search.Cursor(value=0.1, mid="m", seq=1),
    search.SearchPage(versions=(SUMMARY,), next="x"),
    endpoints.Endpoint(name="e", spec=ENDPOINT_SPEC, version=VERSION, state=endpoints.EndpointState.UNHEALTHY),
    endpoints.ApiKey(id="i", name="n", secret_sha256="00", revoked="then"),
    jobs.Progress(phase="train", done=1, total=2),
    jobs.Job(
        id="j", kind=jobs.JobKind.TRAIN, name="n", state=jobs.JobState.FAILED, spec={"a": [1]}, result={"b": None}
    ),
    jobs.EpochMetrics(run="r", epoch=1, metrics={"loss": 0.1}, created="now"),
    jobs.StepMetrics(run="r", step=10, epoch=1, metrics={"loss": 0.1}, created="now"),
    jobs.RunMetrics(
        run="r",
        epochs=(jobs.EpochMetrics(run="r", epoch=1, metrics={"loss": 0.1}, created="now"),),
        steps=(jobs.StepMetrics(run="r", step=10, epoch=1, metrics={}, created="now"),),
    ),
    ENDPOINT_SPEC,
    ENDPOINT_SPEC.replicas,
    ENDPOINT_SPEC.batching,
    ENDPOINT_SPEC.resources,
    specs.TrainSpec(model="m", dataset="d", architecture=ARCHITECTURE, alias=None),
    specs.WorkerResources(cpus=0.5, gpus=2),
    *EXAMPLES,
    *ACCESS,
    *DATA,
    *TRAINING,
    *PLANS,
    *SERVING,
    *VERSIONS,
    *TUNING,
    specs.Spec(),
]


def every_record() -> set[type[Record]]:
    for module in pkgutil.iter_modules(lightmill.records.__path__):
        importlib.import_module(f"lightmill.records.{module.name}")
    found, waiting = set(), [Record]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            waiting.append(kind)
            if kind.__module__.startswith("lightmill.records."):
                found.add(kind)
    return found


def test_the_list_holds_every_record() -> None:
    assert {kind.__name__ for kind in every_record()} == {type(record).__name__ for record in RECORDS}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_goes_through_json_and_comes_back_equal(record: Record) -> None:
    kind = type(record)
    assert kind.model_validate_json(record.model_dump_json()) == record
    assert kind.model_validate(record.model_dump(mode="json")) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_frozen_and_refuses_an_unknown_key(record: Record) -> None:
    kind = type(record)
    with pytest.raises(ValidationError, match="extra"):
        kind.model_validate({**record.model_dump(mode="json"), "typing_mistake": 1})
    for field in list(kind.model_fields)[:1]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(record, field, None)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_record_holds_no_number_that_json_cannot(number: float) -> None:
    with pytest.raises(ValidationError):
        assets.RunCard(model="m", epoch=1, metrics={"loss": number})


def test_a_key_of_a_blob_is_not_printed() -> None:
    assert BLOB.key not in repr(BLOB)
    assert BLOB.key not in str(BLOB)
    assert BLOB.key not in repr(next(r for r in RECORDS if isinstance(r, assets.Manifest)))


def test_final_states_are_the_three_that_end_a_job() -> None:
    assert {state for state in jobs.JobState if state.final} == {"succeeded", "failed", "cancelled"}


def test_the_present_time_has_one_form() -> None:
    import re

    text: Any = now_iso()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
