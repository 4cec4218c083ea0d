"""What a careful engineer writes without Lightmill: torchrun, DDP, tensors in memory, one permutation an epoch.

Run: torchrun --standalone --nproc-per-node=2 benchmarks/ddp_by_hand.py ROWS.npz SPEC_AS_JSON

It prints a JSON line: seconds from `STARTED_AT` to the end of the first step, and steps a second by epoch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel


def mlp(hidden: list[int]) -> nn.Module:
    """Return a perceptron on the digits."""
    layers: list[nn.Module] = []
    for width, units in zip([64, *hidden], hidden, strict=False):
        layers += [nn.Linear(width, units), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], 10))


def transformer(arguments: dict[str, Any]) -> nn.Module:
    """Return the same decoder: what is compared is the training around it."""
    from lightmill.models.decoder import decoder

    return decoder(**arguments)


def classify(model: nn.Module, features: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of labels."""
    return functional.cross_entropy(model(features), label)


def predict_next(model: nn.Module, tokens: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of next tokens within documents."""
    logits = model(tokens, segments)[:, :-1]
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != 0)
    targets = torch.where(same, tokens[:, 1:], -100)
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


def main() -> None:
    """Train; rank 0 prints what was measured."""
    began = float(os.environ.get("STARTED_AT", "0"))
    rows, spec = np.load(sys.argv[1]), json.loads(sys.argv[2])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(1)
    torch.manual_seed(spec["seed"])
    even = len(rows["first"]) // world * world  # a worker with a step more than the others would wait for ever
    first, second = (torch.from_numpy(rows[name])[rank:even:world] for name in ("first", "second"))
    arguments = spec["architecture"]["arguments"]
    is_language = spec["objective"] == "causal_lm"
    model = DistributedDataParallel(transformer(arguments) if is_language else mlp(arguments["hidden"]))
    loss_of = predict_next if is_language else classify
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec["learning_rate"])
    batch = spec["batch_size"] // world
    speeds, first_step = [], 0.0
    for _ in range(spec["epochs"]):
        model.train()
        started, steps, total = time.perf_counter(), 0, torch.zeros(())
        for chosen in torch.randperm(len(first)).split(batch):
            optimizer.zero_grad()
            loss = loss_of(model, first[chosen], second[chosen])
            loss.backward()
            optimizer.step()
            total += loss.detach()
            steps += 1
            first_step = first_step or time.time() - began
        speeds.append(steps / (time.perf_counter() - started))
        dist.all_reduce(total)
    if rank == 0:
        sys.stdout.write(json.dumps({"first_step": first_step, "speeds": speeds}) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
