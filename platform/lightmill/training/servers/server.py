"""A shard that many threads call at once: a worker waits here until it may go on."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Condition

from lightmill.training.optimization.states import State
from lightmill.training.servers.shard import Array, Counts, Gradients, Parameters, ServerSetting, Shard


class Server:
    """One parameter server. Every method may be called by any thread; each worker has at most one call under way.

    Each worker needs a thread of its own, since `exchange` and `offer` wait for other workers.
    """

    def __init__(self, setting: ServerSetting, values: Mapping[str, Array]) -> None:
        """Take over copies of the values."""
        self._shard = Shard(setting, values)
        self._changed = Condition()
        self._norm = (0, 0.0)  # of which step, and the squared norm

    def names(self) -> tuple[str, ...]:
        """Return the parameters that are held."""
        return self._shard.names

    def exchange(self, worker: int, gradients: Gradients) -> Parameters:
        """Push the gradients of a step, wait until the worker may go on, and return the parameters to go on with."""
        with self._changed:
            self._shard.push(worker, gradients)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._shard.may_go(worker))
            return self._shard.grant(worker)

    def offer(self, worker: int, gradients: Gradients) -> float:
        """Push the gradients of a step; when those of all workers are here, return the squared norm of their mean."""
        with self._changed:
            self._shard.push(worker, gradients)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._shard.gathered(worker))
            step = self._shard.clocks[worker]
            if self._norm[0] != step:
                self._norm = (step, self._shard.squared_norm())
            return self._norm[1]

    def settle(self, worker: int, norm: float) -> Parameters:
        """Apply what was offered, unless another worker's call did, and return the parameters to go on with."""
        with self._changed:
            if not self._shard.may_go(worker):
                self._shard.settle(norm)
                self._changed.notify_all()
            return self._shard.grant(worker)

    def parameters(self) -> Parameters:
        """Return the parameters as they are."""
        with self._changed:
            return self._shard.parameters()

    def averaged(self) -> Parameters:
        """Return the exponential moving averages; empty without `ema`."""
        with self._changed:
            return self._shard.averaged()

    def flush(self) -> None:
        """Apply the gradients that wait for others to come."""
        with self._changed:
            self._shard.flush()

    def take_counts(self) -> Counts:
        """Return what was measured since the last call."""
        with self._changed:
            return self._shard.take_counts()

    def state(self) -> State:
        """Return what `load` goes on from."""
        with self._changed:
            return self._shard.state()

    def load(self, state: State) -> None:
        """Go on from a state; no worker may be waiting."""
        with self._changed:
            self._shard.load(state)
            self._norm = (0, 0.0)
