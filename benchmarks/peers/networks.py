"""The networks that all sides serve, with the same weights: drawn from a seed, on one thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from lightmill.models.encoder import encoder

torch.set_num_threads(1)
SIDE = 512
"""The tensor of a megabyte is float32 [SIDE, SIDE]; its answer are the means of its rows."""
TOKENS = 64
ENCODER: dict[str, Any] = {
    "vocabulary": 1000,
    "context": TOKENS,
    "classes": 10,
    "width": 256,
    "layers": 8,
    "heads": 4,
    "feed_forward": 683,
    "dropout": 0.0,
}
"""6.5 million parameters."""
BATCH_ROWS, BATCH_WAIT_S = 32, 0.003
Run = Callable[[Any], Any]


def mlp() -> nn.Module:
    """Return 64 -> 256 -> 10."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).eval()


def text_encoder() -> nn.Module:
    """Return the encoder: int64 [rows, TOKENS] to float32 [rows, 10]."""
    torch.manual_seed(0)
    return encoder(**ENCODER).eval()


def run_mlp(network: nn.Module) -> Run:
    """Return what computes float32 [rows, 10] from [rows, 64], lists or arrays."""
    return lambda rows: _computed(network, rows, np.float32)


def run_encoder(network: nn.Module) -> Run:
    """Return what computes float32 [rows, 10] from token ids [rows, TOKENS], lists or arrays."""
    return lambda rows: _computed(network, rows, np.int64)


@torch.inference_mode()
def _computed(network: nn.Module, rows: Any, dtype: Any) -> Any:
    return network(torch.from_numpy(np.asarray(rows, dtype=dtype))).numpy()


def means(tensor: Any) -> Any:
    """Return float32 [SIDE], the means of the rows of [SIDE, SIDE], lists or an array."""
    return np.asarray(tensor, dtype=np.float32).reshape(SIDE, SIDE).mean(axis=1)
