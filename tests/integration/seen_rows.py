"""Two workers of Ray Train write down the row ids of their batches; the last line says who saw what.

Run: python -m tests.integration.seen_rows HOME DATASET
"""

from __future__ import annotations

import json
import math
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
    """The training loop: as many steps as batches, each of which says which rows it has."""
    import ray.train
    import torch
    from lightmill.training.batches import Batches, step_sizes

    class Ids:
        changing = False

        def batch(self, table: Any, *, epoch: int | None = None) -> tuple[torch.Tensor, ...]:
            return (torch.from_numpy(table.column("row_id").to_numpy().copy()),)

    rank = ray.train.get_context().get_world_rank()
    counts = config["counts"]
    sizes = step_sizes(counts[rank], math.ceil(max(counts) / BATCH))
    shard: Any = ray.train.get_dataset_shard(f"train-{rank}")
    rows: Any = Ids()
    batches = Batches(shard, rows, BATCH, rank, torch.device("cpu"), config["bytes"], sizes)
    for epoch in range(EPOCHS):
        seen = [row for (ids,) in batches.epoch(epoch) for row in ids.tolist()]
        Path(config["folder"], f"{epoch}-{rank}.json").write_text(json.dumps(seen))


def main() -> None:
    settings = Settings(home=Path(sys.argv[1]))
    with connect(settings):
        from lightmill.training.batches import CACHE_BYTES
        from ray.train import DataConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from lightmill.datasets.dealing import distribute_split
        from lightmill.records.references import AssetKind, parse_reference
        from lightmill.records.splitting import DistributionSpec

        platform = open_platform(settings)
        id = platform.registry.resolve(AssetKind.DATASET, parse_reference(sys.argv[2]))
        version = platform.registry.open(id)
        found: dict[str, Any] = {}
        for number, section in enumerate(SPECS):
            dealt = distribute_split(version, platform.location, DistributionSpec(**section), WORKERS)
            with tempfile.TemporaryDirectory() as folder:
                trainer = TorchTrainer(
                    see,
                    train_loop_config={
                        "counts": list(dealt.sizes),
                        "folder": folder,
                        "bytes": CACHE_BYTES + number % 2,  # kept in memory, or streamed in every epoch
                    },
                    scaling_config=ScalingConfig(num_workers=WORKERS),
                    datasets={f"train-{rank}": part for rank, part in enumerate(dealt.datasets(["row_id"]))},
                    dataset_config=DataConfig(datasets_to_split=[]),
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
