"""Writes said.tar.gz and said.json: what was said of the versions in store.tar.gz, and one of them deleted; frozen.

Only the objects that are new are in the archive; it is unpacked over store.tar.gz. Run once.
Run: PYTHONPATH=platform:. python tests/vectors/make_said.py
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path

from lightmill.records.annotations import Evaluated, Evaluation, Stage, StageChanged, TagsChanged, TextChanged
from lightmill.records.references import AssetKind, parse_reference
from lightmill.registry import RegistryLocation

HERE = Path(__file__).parent
MODEL = AssetKind.MODEL


def main() -> int:
    if (HERE / "said.tar.gz").exists():
        print("said.tar.gz is frozen; a new format gets files of its own.")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with tarfile.open(HERE / "store.tar.gz") as archive:
            archive.extractall(root, filter="data")
        (root / "ring.json").chmod(0o600)
        before = set(root.rglob("*"))
        location = RegistryLocation(
            store_url=str(root / "store"), keyring_path=str(root / "ring.json"), workspace="default"
        )
        registry = location.open()
        first, second = (registry.resolve(MODEL, parse_reference(f"letters@{seq}")) for seq in (1, 2))
        dataset = registry.resolve(AssetKind.DATASET, parse_reference("letters@1"))
        measured = Evaluation(
            dataset=dataset, split="test", metrics={"accuracy": 0.75}, created="2026-11-22T08:00:00.000Z", by="run-1"
        )
        for id, change in (
            (first, TagsChanged(set={"team": "letters", "old": "yes"})),
            (first, TagsChanged(set={"note": "ümlaut"}, unset=("old",))),
            (second, Evaluated(evaluation=measured)),
            (second, StageChanged(stage=Stage.PRODUCTION, required=("accuracy>=0.7",), evidence=measured)),
            (second, TextChanged(description="Reads letters.", limitations="Two of them.")),
        ):
            registry.annotate(id, change)
        registry.delete(MODEL, "letters", 3, "it was a test")
        new = sorted(path for path in root.rglob("*") if path.is_file() and path not in before)
        new = [path for path in new if path.name != "ring.json" and "tmp" not in path.relative_to(root).parts]
        with gzip.GzipFile(HERE / "said.tar.gz", "wb", mtime=0) as file, tarfile.open(fileobj=file, mode="w") as tar:
            for path in new:
                entry = tarfile.TarInfo(str(path.relative_to(root)))
                entry.size, entry.mode = path.stat().st_size, 0o600
                tar.addfile(entry, io.BytesIO(path.read_bytes()))
        expected = {
            "objects": [str(path.relative_to(root / "store")) for path in new],
            "notes": {str(id.seq): registry.notes(id).model_dump(mode="json") for id in (first, second)},
            "deleted": {"3": "it was a test"},
        }
    (HERE / "said.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
