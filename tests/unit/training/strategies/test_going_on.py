"""A lone worker's run goes on from its sealed checkpoint with the same bits, whatever the strategy that waits less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightmill.records.references import VersionId
from lightmill.registry.tensors import load_tensors
from lightmill.training.loop import run_epochs
from lightmill.training.session import LoneSession
from lightmill.training.team import Team
from tests.unit.training.sealed_rows import Sealed, seal_rows


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return seal_rows(tmp_path_factory.mktemp("going-on"))


def trained(sealed: Sealed, folder: Path, run: str, start: VersionId | None, **more: Any) -> LoneSession:
    session = LoneSession(start)
    keep = {"keep_last": 1000, "pause_s": 0, "asynchronous": False}
    run_epochs(sealed.config(folder, run, checkpoints=keep, **more), Team.alone(), session)
    return session


@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "parameter_server", "servers": 2},
        {"name": "parameter_server", "consistency": "asp", "accumulate": 2},
        {"name": "hybrid_sync", "group_size": 1, "consistency": "ssp"},
        {"name": "local_sgd", "local_steps": 3},
        {"name": "ring"},
    ],
    ids=lambda strategy: f"{strategy['name']}-{strategy.get('consistency', '')}",
)
def test_a_run_goes_on_with_the_same_bits(sealed: Sealed, tmp_path: Path, strategy: dict[str, Any]) -> None:
    more: dict[str, Any] = {"strategy": strategy, "optimizer": "adamw", "ema": 0.9, "epochs": 3}
    name = f"{strategy['name']}-{strategy.get('consistency', 'none')}".replace("_", "-")
    whole = trained(sealed, tmp_path, f"{name}-whole", None, **more)
    again = trained(sealed, tmp_path, f"{name}-again", whole.sealed[0], **more)
    registry = sealed.world.new_registry()
    one, other = (load_tensors(registry.open(session.sealed[-1])) for session in (whole, again))
    assert len(again.sealed) == 2
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=0, atol=0, msg=lambda m, k=key: f"{k}: {m}")
    assert [report["loss"] for report in again.reports] == [report["loss"] for report in whole.reports[1:]]
    assert again.again == whole.reports[:1]
