"""What objectives count, added up over steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from lightmill.records.signature import Architecture
from lightmill.training.objectives import CrossEntropy, Step
from lightmill.training.tally import Tally
from tests.attacks.scene import dataset_card

THREE = CrossEntropy(dataset_card(classes=("a", "b", "c")), Architecture(name="logistic"))


@pytest.mark.parametrize("steps", [1, Tally.FLUSH_STEPS - 1, Tally.FLUSH_STEPS, 2 * Tally.FLUSH_STEPS + 3])
def test_a_tally_is_the_sum_over_steps(steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    tally, loss_sum, hits, rows = Tally(THREE), 0.0, 0, 0
    for step in range(steps):
        size = 1 + step % 5
        logits = torch.randn(size, 3, generator=generator)
        label = torch.randint(0, 3, (size,), generator=generator)
        loss = functional.cross_entropy(logits, label)
        tally.add([Step(loss=loss, count=len(label), kept=(logits, label))])
        loss_sum += float(loss.double()) * size
        hits += int((logits.argmax(dim=1) == label).sum())
        rows += size
    totals, again = tally.totals(), tally.totals()
    assert totals is not None and again is not None
    np.testing.assert_allclose(totals.tolist(), [loss_sum, hits, rows], rtol=1e-9)
    assert totals.tolist() == again.tolist()


def test_nothing_counted_is_nothing() -> None:
    assert Tally(THREE).totals() is None
