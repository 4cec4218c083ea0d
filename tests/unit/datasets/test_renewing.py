"""Work on a draft that takes long renews its lease while it lasts, and not after."""

from __future__ import annotations

import time
from pathlib import Path

from lightmill.datasets.workplace import renewing
from lightmill.records.references import AssetKind
from lightmill.registry.names import renewals_prefix
from tests.unit.registry.world import World


def test_a_lease_is_renewed_while_the_work_lasts(tmp_path: Path) -> None:
    world = World(tmp_path)
    draft = world.registry.begin(AssetKind.DATASET, "d")

    def renewals() -> int:
        return sum(1 for _ in world.store.list(renewals_prefix(draft.id.publish_id)))

    with renewing(draft, every_s=0.01):
        end = time.monotonic() + 30
        while renewals() < 3 and time.monotonic() < end:
            time.sleep(0.01)
    assert renewals() >= 3
    left = renewals()
    time.sleep(0.05)
    assert renewals() == left
    draft.release()
    assert renewals() == 0
