"""Dataset versions published without Ray: a real profile, real encrypted files of two splits and a quarantine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from lightmill.datasets.parquet import write_encrypted
from lightmill.datasets.profiling import Profiler
from lightmill.datasets.sources.port import row_ids
from lightmill.records.assets import (
    CodeState,
    DatasetCard,
    FileEntry,
    Lender,
    Profile,
    Provenance,
    RowOrigin,
    SourceFile,
    VersionSummary,
)
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.masking import MaskedCount, MaskingReport
from lightmill.records.profile import PROFILE_FILE
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.signature import Preprocessing, TensorSpec
from lightmill.registry import Content, Registry

HIDDEN = "secret-canary"
SPEC: dict[str, Any] = {
    "name": "people",
    "description": "People who buy.",
    "licence": "CC0-1.0",
    "source": {"format": "csv", "path": "people.csv"},
    "columns": [
        {"name": "age", "dtype": "float64", "max_nulls": 0.5, "minimum": 0, "maximum": 120},
        {"name": "land", "dtype": "string", "values": ["DE", "FR", "IT"]},
        {"name": "mail", "dtype": "string", "role": "key", "tags": ["email"]},
        {"name": "buys", "dtype": "string", "role": "label", "values": ["no", "yes"]},
    ],
    "prepare": [
        {"step": "impute", "columns": ["age"], "with": "median"},
        {"step": "one_hot", "columns": ["land"]},
    ],
}
SPLITS = ("train", "validation", "test")


@dataclass(kw_only=True)
class People:
    """What to publish; `age` is the mean of the ages, `lands` the shares of the three."""

    rows: int = 300
    seed: int = 0
    age: float = 40.0
    missing: float = 0.1
    lands: tuple[float, float, float] = (0.5, 0.3, 0.2)
    spec: dict[str, Any] = field(default_factory=lambda: SPEC)
    sources: tuple[SourceFile, ...] = (SourceFile(name="people.csv", size_bytes=9, sha256="aa"),)
    origins: tuple[RowOrigin, ...] = (RowOrigin(first=0, source=0),)
    profile: bool = True


def publish(registry: Registry, people: People | None = None, name: str = "people") -> VersionSummary:
    made = people or People()
    rng = np.random.default_rng(made.seed)
    ages = np.where(rng.random(made.rows) < made.missing, np.nan, rng.normal(made.age, 10, made.rows).clip(0, 120))
    ids = row_ids(0, np.arange(made.rows))
    table = pa.table(
        {
            "age": pa.array(ages, from_pandas=True),
            "land": pa.array(rng.choice(["DE", "FR", "IT"], made.rows, p=made.lands)),
            "mail": pa.array([f"{HIDDEN}-{n}" for n in range(made.rows)]),
            "buys": pa.array(np.where(rng.random(made.rows) < 0.5, "yes", "no")),
        }
    )
    split = (np.arange(made.rows) % 3).astype(np.int8)
    spec = DatasetSpec.model_validate({**made.spec, "name": name})
    profiler = Profiler(spec.columns)
    profile = profiler.finish(profiler.of(table, ids.to_numpy(), split), name)
    stored = _stored(table, ids)
    draft = registry.begin(AssetKind.DATASET, name)
    files = [
        _entry(
            draft, stored.filter(pa.array(split == code)).slice(at, 60), f"{group}/00000-{at // 60:05d}.parquet", group
        )
        for code, group in enumerate(SPLITS)
        for at in range(0, int((split == code).sum()), 60)
    ]
    files.append(_entry(draft, _aside(made.rows), "quarantine/00000-00000.parquet", "quarantine"))
    notes = draft.seal_files({PROFILE_FILE: profile.model_dump_json().encode()} if made.profile else {})
    report = MaskingReport(
        policy="staff",
        version=1,
        fingerprint="ab",
        rows=made.rows,
        counts=(MaskedCount(column="mail", detector=None, action="pseudonym", values=made.rows),),
    )
    card = DatasetCard(
        features=TensorSpec(name="features", datatype="FP32", shape=(4,)),
        classes=("no", "yes"),
        preprocessing=Preprocessing(),
        source_columns=("age", "land", "mail"),
        sources=made.sources,
        profile=Profile(
            rows_in=made.rows + 2,
            rows_kept=made.rows,
            dropped={"missing value": 1},
            quarantined={"value out of range": 1},
            masked=report,
            splits={group: int((split == code).sum()) for code, group in enumerate(SPLITS)},
            classes={kind: int((np.array(table.column("buys")) == kind).sum()) for kind in ("no", "yes")},
        ),
        description=spec.description,
        licence=spec.licence,
        origins=made.origins,
    )
    provenance = Provenance(
        spec=spec.model_dump(mode="json"), code=CodeState(commit="c0ffee"), packages={"ray": "2"}, job="ingest-1"
    )
    content = Content(files=(*files, *notes.files), blobs=notes.blobs, dataset=card, provenance=provenance)
    return registry.commit(draft, content)


def append(registry: Registry, before: VersionId) -> VersionSummary:
    """Publish a version that shares all files of another and has none of its own."""
    version = registry.open(before)
    names = ("footer", "data", "tag-0")
    lender = Lender(seq=before.seq, subkeys={name: version.subkey(name).hex() for name in names})
    files = tuple(
        entry.model_copy(update={"lender": 0}) for entry in version.manifest.files if entry.object is not None
    )
    content = Content(files=files, lenders=(lender,), dataset=version.manifest.dataset)
    return registry.commit(registry.begin(AssetKind.DATASET, before.name), content)


def _stored(table: pa.Table, ids: pa.Array) -> pa.Table:
    flat = pa.array(np.arange(4 * len(table), dtype=np.float32))
    features = pa.FixedSizeListArray.from_arrays(flat, 4)
    label = pa.array([int(value == "yes") for value in table.column("buys").to_pylist()], pa.int64())
    head = pa.table({"row_id": ids, "label": label, "features": features})
    for name in ("age", "land", "mail"):
        head = head.append_column(name, table.column(name))
    return head


def _aside(row: int) -> pa.Table:
    return pa.table(
        {
            "row_id": row_ids(0, np.array([row])),
            "quarantine_reason": ["value out of range"],
            "quarantine_column": ["age"],
            "quarantine_source": ["people.csv"],
            "quarantine_row": pa.array([row + 1], pa.int64()),
            "age": ["999"],
        }
    )


def _entry(draft: Any, rows: pa.Table, path: str, group: str) -> FileEntry:
    tags = {"mail": "email"} if "mail" in rows.column_names else {}
    digest, size = draft.put_object(write_encrypted(rows, draft.subkey, tags))
    return FileEntry(path=path, size=size, sha256=digest, object=digest, rows=len(rows), group=group)
