"""What a sealed checkpoint every 50 steps costs a run of a 100 MB model, and over `torch.save` in the loop.

One worker with all CPUs trains a perceptron of 25 million parameters by AdamW, so that a checkpoint is 300 MB: weights
and two moments. Rounds of 50 steps take turns: without a checkpoint, with ours (sealed in a thread, on real files, and
waited for at the end of the round), with `torch.save` of the same state to the same disk. A share is the extra time of
a round over the round without one.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.figures import figure, note
from lightmill.models.architectures import seeded
from lightmill.records.assets import Provenance
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.records.training import CheckpointSpec
from lightmill.registry import RegistryLocation
from lightmill.training.checkpoints import Position, Run, Sealer
from lightmill.training.objectives import CrossEntropy
from lightmill.training.strategies import Ddp, Setting, Strategy
from lightmill.training.team import Team
from lightmill.training.weighing import weighed
from tests.attacks.scene import dataset_card
from tests.unit.registry.world import World

STEPS, ROUNDS, ROWS, FEATURES = 50, 3, 192, 1024
HIDDEN = [4096, 4096, 1024]
GOAL_SHARE, GOAL_RATIO = 0.03, 1.0


def main() -> None:
    """Take turns, and print the share and the ratio."""
    torch.set_num_threads(os.cpu_count() or 1)
    strategy = _strategy()
    batch = (torch.randn(ROWS, FEATURES), torch.arange(ROWS) % 2)
    with tempfile.TemporaryDirectory() as folder:
        sealer, saved = _sealer(Path(folder)), Path(folder, "plain.pt")
        kinds: dict[str, Callable[[int], None]] = {
            "none": lambda _: None,
            "ours": lambda n: sealer.seal(strategy.state(), Position(epoch=0, step=n), {}, None),
            "torch.save": lambda _: torch.save(strategy.state(), saved),
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for warm in kinds.values():
            _round(strategy, batch, 3, warm, sealer)
        for turn in range(ROUNDS):
            for kind, checkpoint in kinds.items():
                seconds[kind].append(_round(strategy, batch, STEPS, checkpoint, sealer))
            shown = "  ".join(f"{kind} {times[-1]:.2f} s" for kind, times in seconds.items())
            note(f"  round {turn + 1} of {STEPS} steps: {shown}")
    base = statistics.median(seconds["none"])
    ours = [max(0.0, time - base) / base for time in seconds["ours"]]
    peer = [max(1e-9, time - base) / base for time in seconds["torch.save"]]
    size_mb = round(sum(p.numel() * 4 for p in strategy.weights().values()) / 1e6)
    figure(
        "checkpoint_stall",
        "share of training time",
        ours,
        goal=f"<= {GOAL_SHARE}",
        holds=lambda share: share <= GOAL_SHARE,
        model_mb=size_mb,
        round_s=round(base, 2),
    )
    figure(
        "checkpoint_stall_over_torch_save",
        "share of training time",
        ours,
        peer,
        goal=f"< {GOAL_RATIO}",
        holds=lambda ratio: ratio < GOAL_RATIO,
    )


def _strategy() -> Strategy:
    plain = dataset_card()
    card = plain.model_copy(update={"features": plain.features.model_copy(update={"shape": (FEATURES,)})})
    architecture = Architecture(name="mlp", arguments={"hidden": HIDDEN})
    objective = CrossEntropy(card, architecture)
    spec = TrainSpec(model="m", dataset="d", architecture=architecture, workers=1, batch_size=ROWS)
    strategy = Ddp(Setting(spec=spec, team=Team.alone(), objective=objective, epoch_steps=1000))
    strategy.prepare(seeded(0, objective.architecture))
    return strategy


def _sealer(folder: Path) -> Sealer:
    world = World(folder)
    location = RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")
    run = Run(location=location, name="r", model="m", provenance=Provenance(run="r"), spec=CheckpointSpec())
    return Sealer(run, Team.alone())


def _round(
    strategy: Strategy, batch: tuple[torch.Tensor, ...], steps: int, checkpoint: Callable[[int], None], sealer: Sealer
) -> float:
    """Return the seconds of so many steps, with a checkpoint after the first, and until it is there."""
    started = time.perf_counter()
    for step in range(steps):
        strategy.step(weighed(strategy, [batch], ROWS))
        if not step:
            checkpoint(step)
    sealer.finish()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
