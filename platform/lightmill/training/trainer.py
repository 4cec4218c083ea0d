"""Ray Train's trainer without what no run of ours uses, which would be a process each.

* DatasetManager splits Ray Datasets among workers. Workers read their rows from the registry themselves.
* PlacementGroupCleaner asks every second whether the controller lives, and gives back the workers' place if it does
  not; a place that was not complete yet when the controller died it does not know. Whoever waits for the run hears of
  that death, and gives back all of them.
"""

from __future__ import annotations

import logging
import time

import ray
from ray import PlacementGroupID
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # pyright: ignore[reportAttributeAccessIssue]
from ray.exceptions import RayError
from ray.train import Result
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.callback import RayTrainCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group

UNUSED = (DatasetsCallback, PlacementGroupCleanerCallback)
LOOKS, LOOK_S = 5, 0.2
logger = logging.getLogger("lightmill.training")


class Trainer(TorchTrainer):
    """Trains on the workers' own rows."""

    def fit(self) -> Result:
        """Train to the end, and leave no place taken by a controller that died; see Ray Train for the errors."""
        try:
            return super().fit()
        except BaseException:
            give_back()
            raise

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        return [one for one in super()._create_default_callbacks() if not isinstance(one, UNUSED)]


def give_back() -> None:
    """Remove the placement groups of this Ray job whose actor is dead.

    Ray itself removes them when the job has ended too. It is looked a few times: a group may be on its way to Ray's
    head, or the head may hear of the death later than we do.
    """
    if not ray.is_initialized():
        return
    try:
        for _ in range(LOOKS):
            for group in left_behind():
                remove_placement_group(PlacementGroup(group))
            time.sleep(LOOK_S)
    except RayError as exc:
        logger.warning("places of workers that are gone could not be given back: %s", exc)


def left_behind() -> list[PlacementGroupID]:
    """Return the placement groups of this Ray job whose actor is dead; Ray's public functions do not tell."""
    job = ray.get_runtime_context().get_job_id()
    found: list[PlacementGroupID] = []
    for told in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(told)
        gone = group.creator_actor_dead and group.creator_actor_id and group.state != PlacementGroupTableData.REMOVED
        if gone and group.creator_job_id.hex() == job:
            found.append(PlacementGroupID(group.placement_group_id))
    return found


__all__ = ["Trainer", "give_back", "left_behind"]
