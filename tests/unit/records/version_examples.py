"""One example of every record of dataset versions and retention, for the tests that look at all records."""

from __future__ import annotations

from lightmill.records import assets, dataset_versions, retention
from lightmill.records.base import Record
from lightmill.records.references import AssetKind, VersionId

_OLD, _NEW = (VersionId(kind=AssetKind.DATASET, name="d", seq=seq, digest="ab" * 32) for seq in (1, 2))
_FILE = assets.SourceFile(name="a.csv", size_bytes=3, sha256="00")
_FIELD = dataset_versions.FieldChange(what="age", field="role", old="key", new=None)
_COUNT = dataset_versions.CountChange(group="split", name="train", old=3, new=0)
_SHIFT = dataset_versions.ColumnShift(
    name="age", kind="numbers", old_missing=0.0, new_missing=0.5, psi=0.1, js=0.2, bins=10, by_chance=0.01, method="m"
)
_SOURCE = dataset_versions.SourceChange(name="a.csv", change="removed", old=_FILE)
_POLICY = retention.RetentionPolicy(keep_last=3, keep_days=0.5, keep_tagged=True)
_DECISION = retention.RetentionDecision(version=_OLD, created="now", size_bytes=1, keep=False, why=("old",))
VERSIONS: tuple[Record, ...] = (
    assets.Lender(seq=1, subkeys={"footer": "00" * 32}),
    assets.RowOrigin(first=3, source=1, part="table t, id from 4"),
    _FIELD,
    _COUNT,
    _SHIFT,
    _SOURCE,
    dataset_versions.DatasetDiff(
        old=_OLD,
        new=_NEW,
        columns=(_FIELD,),
        counts=(_COUNT,),
        shifts=(_SHIFT,),
        sources=(_SOURCE,),
        preparation=(_FIELD,),
        notes=("none",),
    ),
    dataset_versions.RowTrace(
        version=_OLD, row_id=1 << 40, group="train", position=0, source=_FILE, source_row=1, values={"a": [1.5, None]}
    ),
    _POLICY,
    _DECISION,
    retention.RetentionPlan(
        kind=AssetKind.DATASET,
        name="d",
        policy=_POLICY,
        at="now",
        decisions=(_DECISION,),
        applied=True,
        deleted=("d@1",),
        refused={"d@2": "alias"},
    ),
)
