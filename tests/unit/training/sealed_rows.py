"""A sealed dataset of small files, without Ray: the first feature of each row is its id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lightmill.datasets.parquet import write_encrypted
from lightmill.records.assets import DatasetCard, FileEntry, Provenance
from lightmill.records.references import AssetKind
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.registry import Content, OpenVersion, RegistryLocation
from lightmill.training.loop import LoopConfig
from lightmill.training.objectives import CrossEntropy
from tests.attacks.scene import dataset_card
from tests.unit.registry.world import World

CLASSES = 4
FILES: Mapping[str, Sequence[int]] = {"train": (7, 1, 12), "validation": (5, 4), "test": (3,)}


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A version of dataset `d`, where it lies, and a registry on it."""

    world: World
    version: OpenVersion
    location: RegistryLocation
    card: DatasetCard

    def objective(self) -> CrossEntropy:
        return CrossEntropy(self.card, Architecture(name="logistic"))

    def config(self, folder: Path, run: str = "run-1", lanes: int = 4, **more: Any) -> LoopConfig:
        """What a worker of a run is told; `more` are keys of the specification."""
        base: dict[str, Any] = {
            "model": "m",
            "dataset": "d",
            "architecture": Architecture(name="logistic"),
            "epochs": 2,
            "batch_size": 4,
            "workers": 1,
            "learning_rate": 0.05,
        }
        spec = TrainSpec.model_validate(base | more)
        return LoopConfig(
            spec=spec,
            architecture=CrossEntropy(self.card, spec.architecture).architecture,
            run=run,
            run_folder=str(folder / "runs" / run),
            location=self.location,
            dataset=self.version.id,
            provenance=Provenance(run=run),
            device="cpu",
            threads=1,
            lanes=lanes,
        )


def seal_rows(
    folder: Path,
    files: Mapping[str, Sequence[int]] = FILES,
    features: int = 3,
    extra: float = 0.0,
    spoilt: Mapping[int, float] | None = None,
) -> Sealed:
    """Publish files of so many rows in each split; ids count through all of them, labels are ids modulo 4.

    Features other than the first are the label's, shifted, so that there is something to learn; `extra` scales ids;
    the second feature of `spoilt` rows is what it says.
    """
    world = World(folder)
    draft = world.registry.begin(AssetKind.DATASET, "d")
    entries: list[FileEntry] = []
    start = 0
    for split, sizes in files.items():
        for number, rows in enumerate(sizes):
            data = write_encrypted(_table(start, rows, features, extra, spoilt or {}), draft.subkey, {})
            digest, size = draft.put_object(data)
            path = f"{split}/{number}.parquet"
            entries.append(FileEntry(path=path, size=size, sha256=digest, object=digest, rows=rows, group=split))
            start += rows
    plain = dataset_card(classes=tuple(map(str, range(CLASSES))))
    sizes = {split: sum(found) for split, found in files.items()}
    card = plain.model_copy(
        update={
            "features": plain.features.model_copy(update={"shape": (features,)}),
            "profile": plain.profile.model_copy(update={"splits": sizes}),
        }
    )
    id = world.registry.commit(draft, Content(files=tuple(entries), dataset=card)).id
    location = RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")
    return Sealed(world=world, version=world.registry.open(id), location=location, card=card)


def _table(start: int, rows: int, features: int, extra: float, spoilt: Mapping[int, float]) -> pa.Table:
    ids = np.arange(start, start + rows)
    values = np.repeat((ids % CLASSES)[:, None], features, axis=1).astype(np.float32)
    values[:, 0] = ids if not extra else ids * extra
    for row in spoilt.keys() & set(ids.tolist()):
        values[row - start, 1] = spoilt[row]
    return pa.table(
        {
            "row_id": ids,
            "label": ids % CLASSES,
            "features": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), features),
        }
    )
