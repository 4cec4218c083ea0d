"""What Ray Train does when workers fail: it begins anew where that helps, and ends at once where it does not.

A wrong specification, damaged bytes or a run that diverged fail again in the same way: such an error ends the run and
costs no retry. Everything else is charged to the budget of its cause.
"""

from __future__ import annotations

from typing import Any

from ray.train import FailureConfig
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

from lightmill.datasets.translate import original_error
from lightmill.errors import LightmillError, UnavailableError
from lightmill.records.training import FailureSpec


def failure_config(spec: FailureSpec) -> FailureConfig:
    """Return the budgets as Ray Train takes them."""
    return FailureConfig(
        max_failures=spec.worker,
        max_preemption_failures=-1 if spec.preemption is None else spec.preemption,
        controller_failure_limit=spec.controller,
    )


class EndsOnOwnErrors(WorkerGroupCallback, ControllerCallback):
    """Lives in Ray Train's controller, and makes an error that a retry cannot mend the controller's own, which ends."""

    def __init__(self) -> None:
        self._found: LightmillError | None = None

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Look for an error of ours among those of the workers."""
        for error in worker_group_status.errors.values():
            found = original_error(error)
            if found is not None and not isinstance(found, UnavailableError):
                self._found = found

    def before_controller_execute_failure_decision(self, failure_decision: Any) -> None:
        """Raise it: Ray Train does not retry what a callback raises."""
        del failure_decision
        if self._found is not None:
            raise self._found
