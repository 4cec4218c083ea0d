"""Two workers of Ray Train write down the row ids of their batches; the last line says who saw what.

Run: python -m tests.integration.seen_rows HOME DATASET
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from lightmill.settings import Settings
from lightmill.wiring import open_platform
from lightmill.wiring.session import connect

SPECS: list[dict[str, Any]] = [
    {"by": "random", "seed": 5},
    {"by": "sequential"},
    {"by": "class"},
    {"by": "key", "column": "owner"},
]
WORKERS, EPOCHS, BATCH = 2, 2, 16


def see(config: dict[str, Any]) -> None:
    """The training loop: in every step, write down which rows this worker has."""
    import ray.train
    import torch

    from lightmill.datasets.dealing import deal_split
    from lightmill.datasets.reading import open_version
    from lightmill.records.references import VersionId
    from lightmill.records.splitting import DistributionSpec
    from lightmill.registry import RegistryLocation
    from lightmill.training.feed import KeptFeed, Origin
    from lightmill.training.lanes import Lanes
    from lightmill.training.stream import StreamedFeed

    class Ids:
        changing = False
        row_bytes = 8
        columns = ("row_id",)

        def batch(self, table: Any, *, epoch: int | None = None) -> tuple[torch.Tensor, ...]:
            return (torch.from_numpy(table.column("row_id").to_numpy().copy()),)

    location = RegistryLocation.model_validate_json(config["location"])
    version = open_version(location, VersionId.model_validate_json(config["version"]))
    places = deal_split(version, location, DistributionSpec(**config["section"]), WORKERS)
    lanes = Lanes([len(one) for one in places], BATCH)
    rank = ray.train.get_context().get_world_rank()
    rows: Any = Ids()
    kind = StreamedFeed if config["streamed"] else KeptFeed
    origin = Origin(version, location, "train", places)
    feed = kind(origin, rows, lanes, lanes.share(rank, WORKERS), rank, torch.device("cpu"))
    for epoch in range(EPOCHS):
        seen = [row for (ids,) in feed.epoch(epoch) for row in ids.tolist()]
        Path(config["folder"], f"{epoch}-{rank}.json").write_text(json.dumps(seen))


def main() -> None:
    settings = Settings(home=Path(sys.argv[1]))
    with connect(settings):
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from lightmill.records.references import AssetKind, parse_reference

        platform = open_platform(settings)
        id = platform.registry.resolve(AssetKind.DATASET, parse_reference(sys.argv[2]))
        found: dict[str, Any] = {}
        for number, section in enumerate(SPECS):
            with tempfile.TemporaryDirectory() as folder:
                trainer = TorchTrainer(
                    see,
                    train_loop_config={
                        "location": platform.location.model_dump_json(),
                        "version": id.model_dump_json(),
                        "section": section,
                        "folder": folder,
                        "streamed": bool(number % 2),  # or kept in memory
                    },
                    scaling_config=ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 0.5}),
                    run_config=RunConfig(name=section["by"], storage_path=str(settings.runs_path)),
                )
                trainer.fit()
                found[section["by"]] = [
                    [json.loads(Path(folder, f"{epoch}-{rank}.json").read_text()) for rank in range(WORKERS)]
                    for epoch in range(EPOCHS)
                ]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
