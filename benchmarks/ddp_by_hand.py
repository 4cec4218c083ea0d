"""What a careful engineer writes without Lightmill: torchrun, DDP, tensors in memory, one permutation an epoch.

Run: torchrun --standalone --nproc-per-node=2 benchmarks/ddp_by_hand.py ROWS.json SPEC_AS_JSON
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def network(image: list[int], channels: list[int], hidden: int, dropout: float) -> nn.Module:
    """Return the network of examples/digits/train.yaml."""
    first, second = channels
    flat = second * (image[1] // 2) * (image[2] // 2)
    return nn.Sequential(
        nn.Unflatten(1, tuple(image)),
        nn.Conv2d(image[0], first, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(flat, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, 10),
    )


def main() -> None:
    """Train; rank 0 prints the steps a second of every epoch."""
    rows, spec = json.loads(Path(sys.argv[1]).read_text()), json.loads(sys.argv[2])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(1)
    torch.manual_seed(spec["seed"])
    features = torch.tensor(rows["features"])[rank::world]
    label = torch.tensor(rows["label"])[rank::world]
    model = DistributedDataParallel(network(**spec["architecture"]["arguments"]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec["learning_rate"], weight_decay=spec["weight_decay"])
    criterion = nn.CrossEntropyLoss()
    batch = spec["batch_size"] // world
    speeds = []
    for _ in range(spec["epochs"]):
        model.train()
        started, steps, total = time.perf_counter(), 0, torch.zeros(())
        order = torch.randperm(len(label))
        for chosen in order.split(batch):
            optimizer.zero_grad()
            loss = criterion(model(features[chosen]), label[chosen])
            loss.backward()
            optimizer.step()
            total += loss.detach()
            steps += 1
        speeds.append(steps / (time.perf_counter() - started))
        dist.all_reduce(total)
    if rank == 0:
        sys.stdout.write(json.dumps(speeds) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
