"""Ray Train's trainer without what no run of ours uses, which would be a process each.

* DatasetManager splits Ray Datasets among workers. Workers read their rows from the registry themselves.
* PlacementGroupCleaner asks every second whether the controller lives, and gives back the workers' place if it does
  not; a place that was not complete yet when the controller died it does not know. Whoever waits for the run knows
  that it has failed, and gives back whatever place its controller took.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import ray
from ray import PlacementGroupID
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # pyright: ignore[reportAttributeAccessIssue]
from ray.exceptions import RayError
from ray.train import Result
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api.callback import RayTrainCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group

NOTE = "controller"
UNUSED = (DatasetsCallback, PlacementGroupCleanerCallback)
LOOKS, LOOK_S = 5, 0.2
logger = logging.getLogger("lightmill.training")


class NotesController(ControllerCallback):
    """Lives in Ray Train's controller, and writes down which actor that is, before it takes any place."""

    def __init__(self, note: Path) -> None:
        self._note = note

    def after_controller_start(self, train_run_context: Any) -> None:
        """Write the actor's id; the controller runs on the driver's node."""
        del train_run_context
        self._note.parent.mkdir(parents=True, exist_ok=True)
        self._note.write_text(ray.get_runtime_context().get_actor_id() or "")


class Trainer(TorchTrainer):
    """Trains on the workers' own rows."""

    def fit(self) -> Result:
        """Train to the end, and leave no place taken by a run that failed; see Ray Train for the errors."""
        self._note.unlink(missing_ok=True)
        try:
            return super().fit()
        except BaseException:
            if self._note.is_file():
                give_back(self._note.read_text())
            raise

    @property
    def _note(self) -> Path:
        return Path(str(self.run_config.storage_path), str(self.run_config.name), NOTE)

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        kept = [one for one in super()._create_default_callbacks() if not isinstance(one, UNUSED)]
        return [*kept, NotesController(self._note)]


def give_back(controller: str) -> None:
    """Remove the placement groups that a controller's actor made; the last may be on its way to Ray's head still."""
    if not ray.is_initialized():
        return
    try:
        for _ in range(LOOKS):
            for group in groups_of(controller):
                remove_placement_group(PlacementGroup(group))
            time.sleep(LOOK_S)
    except RayError as exc:
        logger.warning("places of workers that are gone could not be given back: %s", exc)


def groups_of(actor: str) -> list[PlacementGroupID]:
    """Return the placement groups that an actor made and that are there; Ray's public functions do not tell."""
    found: list[PlacementGroupID] = []
    for told in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(told)
        if group.creator_actor_id.hex() == actor and group.state != PlacementGroupTableData.REMOVED:
            found.append(PlacementGroupID(group.placement_group_id))
    return found


__all__ = ["Trainer", "give_back"]
