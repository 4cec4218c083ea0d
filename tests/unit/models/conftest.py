from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> None:
    """Tensors of a few numbers gain nothing from threads, and lose much on a busy machine."""
    torch.set_num_threads(1)
