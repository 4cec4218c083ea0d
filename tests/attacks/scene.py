"""What an attacker finds: two models, a dataset and a moved alias; and what a reader then does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from blake3 import blake3

from lightmill.datasets.parquet import read_encrypted, write_encrypted
from lightmill.errors import LightmillError
from lightmill.records.assets import (
    AliasEntry,
    CommitRecord,
    DatasetCard,
    FileEntry,
    Profile,
    SourceFile,
)
from lightmill.records.references import AssetKind, VersionId, parse_reference
from lightmill.records.signature import Preprocessing, TensorSpec
from lightmill.registry import Content, Registry, read_store_id
from lightmill.registry.names import alias_name, blob_name, envelope_name, manifest_name, record_name
from lightmill.storage import BlobStore, LocalStore
from lightmill.vault import ALIAS_TYPE, COMMIT_TYPE, KeyRing, canonical_json, decode_base64
from tests.unit.registry.world import MODEL, World, publish, weights

DATASET = AssetKind.DATASET
FILLING = 0x5A
edits = count()
"""Counts what `edit` has changed in this process."""


def dataset_card(columns: tuple[str, ...] = ("ink",), classes: tuple[str, ...] = ("0", "1")) -> DatasetCard:
    return DatasetCard(
        features=TensorSpec(name="x", datatype="FP32", shape=(1,)),
        classes=classes,
        preprocessing=Preprocessing(),
        source_columns=columns,
        sources=(SourceFile(name="a.csv", size_bytes=1, sha256="00"),),
        profile=Profile(rows_in=3, rows_kept=3, dropped={}, splits={"train": 3}),
    )


def publish_dataset(registry: Registry, name: str, table: pa.Table, card: DatasetCard | None = None) -> VersionId:
    """Publish one encrypted Parquet file as a dataset version, without Ray."""
    draft = registry.begin(DATASET, name)
    data = write_encrypted(table, draft.subkey, {})
    digest, size = draft.put_object(data)
    entry = FileEntry(
        path="train/00000-00000.parquet",
        size=size,
        sha256=digest,
        object=digest,
        blake3=blake3(bytes(data)).hexdigest(),
        rows=table.num_rows,
        group="train",
    )
    return registry.commit(draft, Content(files=(entry,), dataset=card or dataset_card())).id


def table(start: int = 0) -> pa.Table:
    return pa.table({"row_id": [0, 1, 2], "label": [0, 1, 0], "ink": [float(start + n) for n in range(3)]})


@dataclass(kw_only=True)
class Scene:
    """`objects` maps a class of object to (the one that the reader needs, another of the same class)."""

    world: World
    objects: dict[str, tuple[str, str]]
    model: VersionId
    dataset: VersionId


def build(folder: Path) -> Scene:
    world = World(folder)
    registry = world.registry
    first = publish(registry, state=weights(1)).id
    second = publish(registry, state=weights(2)).id
    publish(registry, "other", state=weights(3))
    registry.set_alias(MODEL, "m", "champion", 1)
    registry.set_alias(MODEL, "m", "champion", 2)
    old = publish_dataset(registry, "d", table(10))
    new = publish_dataset(registry, "d", table(20))
    mid, did = registry.mid(MODEL, "m"), registry.mid(DATASET, "d")

    def parts(id: VersionId) -> tuple[str, str, str]:
        opened = registry.open(id)
        record = record_name(registry.mid(id.kind, id.name), id.seq)
        payload = signed_payload(world.path(record).read_bytes())
        objects = [b.id for b in opened.manifest.blobs] + [f.object for f in opened.manifest.files if f.object]
        return blob_name(objects[0] or ""), manifest_name(payload["manifest"]["id"]), record

    (blob1, manifest1, record1), (blob2, manifest2, record2) = parts(first), parts(second)
    return Scene(
        world=world,
        model=second,
        dataset=new,
        objects={
            "store file": ("lightmill.json", record1),
            "blob": (blob2, blob1),
            "manifest": (manifest2, manifest1),
            "envelope": (envelope_name(mid, 2, 0), envelope_name(mid, 1, 0)),
            "commit record": (record2, record1),
            "alias entry": (alias_name(mid, "champion", 2), alias_name(mid, "champion", 1)),
            "dataset file": (parts(new)[0], parts(old)[0]),
            "dataset envelope": (envelope_name(did, 2, 0), envelope_name(did, 1, 0)),
            "dataset manifest": (parts(new)[1], parts(old)[1]),
        },
    )


def signed_payload(data: bytes) -> dict[str, Any]:
    return json.loads(decode_base64(json.loads(data)["payload"]))


def signed(ring: KeyRing, payload: dict[str, Any], kind: str) -> bytes:
    """Sign whatever an attacker likes with the key ring that he has."""
    return ring.signer.sign(canonical_json(payload), kind)


def signed_commit(ring: KeyRing, payload: dict[str, Any]) -> bytes:
    CommitRecord.model_validate(payload)
    return signed(ring, payload, COMMIT_TYPE)


def signed_alias(ring: KeyRing, payload: dict[str, Any]) -> bytes:
    AliasEntry.model_validate(payload)
    return signed(ring, payload, ALIAS_TYPE)


@dataclass(kw_only=True)
class Outcome:
    """What a reader got: an error, or exactly what was published; and what lies in its memory."""

    error: LightmillError | None
    memory: dict[str, bytearray]

    @property
    def zeroed(self) -> bool:
        return not any(any(buffer) for buffer in self.memory.values())

    @property
    def untouched(self) -> bool:
        return all(set(buffer) == {FILLING} for buffer in self.memory.values())


def read_model(store: BlobStore, ring: KeyRing, reference: str = "m@champion") -> Outcome:
    """Resolve, open and load the model into memory that holds something else; check what came."""
    sizes = {name: value.nbytes for name, value in weights().items()}
    memory = {name: bytearray([FILLING] * size) for name, size in sizes.items()}
    try:
        registry = Registry(store, ring, "default", read_store_id(store))
        version = registry.open(registry.resolve(MODEL, parse_reference(reference)))
        version.load_into({name: memoryview(buffer) for name, buffer in memory.items()})
    except LightmillError as exc:
        return Outcome(error=exc, memory=memory)
    for name, value in weights(2).items():
        assert torch.equal(torch.frombuffer(memory[name], dtype=torch.float32).reshape(value.shape), value)
    return Outcome(error=None, memory=memory)


def read_dataset(store: BlobStore, ring: KeyRing) -> Outcome:
    """Resolve, open and read the dataset's rows; check what came."""
    try:
        registry = Registry(store, ring, "default", read_store_id(store))
        version = registry.open(registry.resolve(DATASET, parse_reference("d@latest")))
        entry = version.manifest.files[0]
        found = read_encrypted(version.read_object(entry), version.subkey, entry.path)
    except LightmillError as exc:
        return Outcome(error=exc, memory={})
    assert found.equals(table(20))
    return Outcome(error=None, memory={})


def reader_of(object_class: str) -> Callable[[BlobStore, KeyRing], Outcome]:
    return read_dataset if object_class.startswith("dataset") else read_model


def edit(store: LocalStore, name: str, change: Callable[[bytes], bytes]) -> None:
    next(edits)
    path = store.path(name)
    path.write_bytes(change(path.read_bytes()))
