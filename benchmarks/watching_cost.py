"""What watching costs a step of the digits example: processor time of the observer over that of the steps it watches.

One worker's share of a batch (64 rows), one thread, no Ray: a step is forward, backward, update and counting. The
observer's own calls are timed by the thread's processor clock, so that what else runs on the machine does not matter;
sending, which is one call a second, is not in it. The clocks that time it are inside the figure as well.
"""

from __future__ import annotations

import time

import torch
import yaml

from benchmarks.figures import figure, note
from lightmill.models.architectures import seeded
from lightmill.records.specs import TrainSpec
from lightmill.training.objectives import CrossEntropy
from lightmill.training.strategies import STRATEGIES, Setting
from lightmill.training.team import Team
from lightmill.training.watching.observer import Observer
from lightmill.training.watching.parts import StepPart, Traced
from lightmill.training.weighing import weighed
from tests.attacks.scene import dataset_card
from tests.platforms import ROOT

RUNS, STEPS, ROWS = 5, 200, 64
GOAL = 0.01


class Nobody:
    """Hears everything and keeps nothing."""

    def parts(self, parts: list[StepPart]) -> None:
        """Hear."""

    def traced(self, traced: Traced) -> None:
        """Hear."""

    def flush(self) -> None:
        """Wait for nothing."""


def main() -> None:
    """Print the figure."""
    torch.set_num_threads(1)
    note("what watching costs a step ...")
    shares = [share() for _ in range(RUNS)]
    figure(
        "watching: the observer's processor time over that of a step of the digits",
        "share",
        shares,
        goal=f"below {GOAL}",
        holds=lambda found: found < GOAL,
        every_steps=10,
    )


def share() -> float:
    """Return the share of one run of steps."""
    spec = TrainSpec.model_validate(yaml.safe_load((ROOT / "examples/digits/train.yaml").read_text()))
    card = dataset_card(classes=tuple("0123456789"))
    shaped = card.model_copy(update={"features": card.features.model_copy(update={"shape": (64,)})})
    objective = CrossEntropy(shaped, spec.architecture)
    strategy = STRATEGIES["ddp"](Setting(spec=spec, team=Team.alone(), objective=objective, epoch_steps=STEPS))
    strategy.prepare(seeded(7, objective.architecture))
    batch = (torch.randn(ROWS, 64), torch.randint(0, 10, (ROWS,)))
    watch = Observer(strategy, Nobody())
    feed = watch.feeding(iter([batch] * STEPS))
    spent = 0.0
    begin = time.thread_time()
    for step in range(STEPS):
        asked = time.thread_time()
        rows = next(feed)
        given = time.thread_time()
        counted = strategy.step(weighed(strategy, [rows], ROWS))
        done = time.thread_time()
        watch.stepped(0, step, ROWS, counted)
        spent += given - asked + time.thread_time() - done
    return spent / (time.thread_time() - begin)


if __name__ == "__main__":
    main()
