"""Ray Train's trainer as we use it: which of its helpers a run starts."""

from __future__ import annotations

from pathlib import Path

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from lightmill.training.trainer import UNUSED, NotesController, Trainer


def train(config: dict[str, object]) -> None:
    """Do nothing."""


def test_a_run_starts_no_helper_that_it_does_not_use(tmp_path: Path) -> None:
    given = {
        "scaling_config": ScalingConfig(num_workers=2),
        "run_config": RunConfig(name="run", storage_path=str(tmp_path)),
    }
    plain = [type(one) for one in TorchTrainer(train, **given)._create_default_callbacks()]
    ours = [type(one) for one in Trainer(train, **given)._create_default_callbacks()]
    assert set(UNUSED) <= set(plain), "Ray Train has other helpers now; look at what they start"
    assert ours == [*(kind for kind in plain if kind not in UNUSED), NotesController]
