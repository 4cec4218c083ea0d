"""Writes store.tar.gz and store.json: a whole small store, frozen. Run once; the format promises to read it for ever.

Run: PYTHONPATH=platform:. python tests/vectors/make_store.py
Its key ring is public and protects nothing.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import torch

from lightmill.datasets.parquet import write_encrypted
from lightmill.records.assets import DatasetCard, FileEntry, ModelCard, Profile, Provenance, SourceFile
from lightmill.records.references import AssetKind
from lightmill.records.signature import Architecture, Preprocessing, Standardize, TensorSpec
from lightmill.registry import Content, Registry, initialize_store
from lightmill.registry.tensors import seal_model
from lightmill.storage import LocalStore
from lightmill.vault import KeyRing

HERE = Path(__file__).parent
PREPROCESSING = Preprocessing(steps=(Standardize(mean=(1.0, 2.0), scale=(2.0, 4.0)),))
FEATURES = TensorSpec(name="x", datatype="FP32", shape=(2,))
ROWS = {"row_id": [0, 2, 5], "label": [0, 1, 1], "ink": [1.5, -2.0, 1e30], "paper": [0.25, 0.0, -1e-30]}
TAGS = {"paper": "personal"}
STATE = {
    "weight": torch.tensor([[1.5, -2.0], [0.25, 1e-30]]),
    "bias": torch.tensor([1.0, -1.0], dtype=torch.bfloat16),
    "steps": torch.tensor(123_456_789_012, dtype=torch.int64),
    "mask": torch.tensor([True, False, True]),
    "empty": torch.empty((0, 3)),
}


def dataset(registry: Registry) -> Content:
    draft = registry.begin(AssetKind.DATASET, "letters")
    data = write_encrypted(pa.table(ROWS), draft.subkey, TAGS)
    digest, size = draft.put_object(data)
    notes = draft.seal_files({"notes.txt": b"two rows were dropped\n"})
    file = FileEntry(path="train/00000-00000.parquet", size=size, sha256=digest, object=digest, rows=3, group="train")
    card = DatasetCard(
        features=FEATURES,
        classes=("alpha", "beta"),
        preprocessing=PREPROCESSING,
        source_columns=("ink", "paper"),
        sources=(SourceFile(name="letters.csv", size_bytes=99, sha256="ab" * 32),),
        profile=Profile(rows_in=5, rows_kept=3, dropped={"missing value": 2}, splits={"train": 3}),
    )
    content = Content(files=(file, *notes.files), blobs=notes.blobs, dataset=card)
    registry.commit(draft, content)
    return content


def model(registry: Registry, scale: float) -> None:
    draft = registry.begin(AssetKind.MODEL, "letters")
    sealed = seal_model(draft, {**STATE, "weight": STATE["weight"] * scale})
    card = ModelCard(
        architecture=Architecture(name="logistic", arguments={"inputs": 2, "classes": 2}),
        preprocessing=PREPROCESSING,
        signature={
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
            "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
        },  # pyright: ignore[reportArgumentType]
        classes=("alpha", "beta"),
        metrics={"test_accuracy": 0.75},
    )
    content = Content(
        files=(sealed.file,),
        tensors=sealed.tensors.tensors,
        safetensors_header=sealed.header,
        blobs=sealed.tensors.blobs,
        model=card,
        provenance=Provenance(run="run-1", spec={"epochs": 3}),
    )
    registry.commit(draft, content)


def write(archive: tarfile.TarFile, root: Path) -> None:
    for path in sorted(root.rglob("*")):
        if path.is_file() and "tmp" not in path.relative_to(root).parts:
            data = path.read_bytes()
            entry = tarfile.TarInfo(str(path.relative_to(root)))
            entry.size, entry.mode = len(data), 0o600
            archive.addfile(entry, io.BytesIO(data))


def main() -> int:
    if (HERE / "store.tar.gz").exists():
        print("store.tar.gz is frozen; a new format gets files of its own.")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ring = KeyRing.create(root / "ring.json")
        store = LocalStore(root / "store")
        registry = Registry(store, ring, "default", initialize_store(store))
        dataset(registry)
        model(registry, 1.0)
        model(registry, 2.0)
        ring.add_root_key()
        model(registry, 3.0)
        for seq in (1, 2):
            registry.set_alias(AssetKind.MODEL, "letters", "champion", seq)
        expected = {
            "store": registry.store_id,
            "mids": {str(kind): registry.mid(kind, "letters") for kind in (AssetKind.DATASET, AssetKind.MODEL)},
            "digests": [registry_digest(registry, seq) for seq in (1, 2, 3)],
            "objects": sorted(store.list("")),
        }
        with gzip.GzipFile(HERE / "store.tar.gz", "wb", mtime=0) as file, tarfile.open(fileobj=file, mode="w") as tar:
            write(tar, root)
    (HERE / "store.json").write_text(json.dumps(expected, indent=1) + "\n")
    return 0


def registry_digest(registry: Registry, seq: int) -> str:
    from lightmill.records.references import Reference

    return registry.resolve(AssetKind.MODEL, Reference(name="letters", selector=str(seq))).digest


if __name__ == "__main__":
    sys.exit(main())
