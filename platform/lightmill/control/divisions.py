"""Whether an endpoint's model can be divided as its specification asks, before anything is deployed."""

from __future__ import annotations

from collections.abc import Callable

from lightmill.records.assets import ModelCard
from lightmill.records.specs import EndpointSpec


def check_divisible(spec: EndpointSpec, card: Callable[[], ModelCard | None]) -> None:
    """Check `parallel` against the architecture of the version that would be served; without `parallel`, nothing.

    Plans look at a module, so that torch is loaded by the first endpoint that asks; no weight is read.

    Raises:
        RequestError: It has no plan, too few layers, or sizes that do not divide.
    """
    if spec.parallel is None:
        return
    found = card()
    if found is not None:
        from lightmill.serving.parallel.checking import check_parallel

        check_parallel(found.architecture, spec.parallel)
