"""Ray Train's trainer without what no run of ours uses, which would be a process each.

* DatasetManager splits Ray Datasets among workers. Workers read their rows from the registry themselves.
* PlacementGroupCleaner asks every second whether the controller lives, and gives back its place if it does not. Whoever
  waits for the run hears of its death, and does that.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ray
from ray import PlacementGroupID
from ray.exceptions import RayError
from ray.train import Result
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2.api.callback import RayTrainCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group

NOTE = "placement_group"
UNUSED = (DatasetsCallback, PlacementGroupCleanerCallback)
logger = logging.getLogger("lightmill.training")


class NotesPlacement(WorkerGroupCallback):
    """Lives in Ray Train's controller, and writes down which placement group the workers have."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Write the group's id; the controller runs on the driver's node."""
        group: PlacementGroup = worker_group.get_worker_group_state().placement_group_handle.placement_group
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / NOTE).write_text(group.id.hex())


class Trainer(TorchTrainer):
    """Trains on the workers' own rows."""

    def fit(self) -> Result:
        """Train to the end, and leave no place taken by a controller that died; see Ray Train for the errors."""
        note = Path(str(self.run_config.storage_path), str(self.run_config.name), NOTE)
        note.unlink(missing_ok=True)
        try:
            return super().fit()
        except BaseException:
            give_back(note)
            raise

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        kept = [one for one in super()._create_default_callbacks() if not isinstance(one, UNUSED)]
        folder = Path(str(self.run_config.storage_path), str(self.run_config.name))
        return [*kept, NotesPlacement(folder)]


def give_back(note: Path) -> None:
    """Remove the placement group that is written down, if it is still there."""
    if not note.is_file() or not ray.is_initialized():
        return
    try:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(note.read_text()))))
    except (RayError, ValueError) as exc:
        logger.warning("a place of workers that are gone could not be given back: %s", exc)


__all__ = ["Trainer", "give_back"]
