"""One replica over several processes, and one request over several replicas."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lightmill.records.base import Record


class ParallelSpec(Record):
    """A replica whose model is divided over `ranks` processes, which start, answer and end together.

    `pipeline` gives each rank consecutive layers, `tensor` a part of every matrix. `resources` are then those of each
    rank. A rank that does not finish a batch within `timeout_s` counts as dead, and so does the replica.
    """

    kind: Literal["pipeline", "tensor"]
    ranks: int = Field(ge=2, le=64)
    timeout_s: float = Field(default=60.0, gt=0)


class SplitSpec(Record):
    """A request of more than `rows` rows is answered in parts of that many, by all replicas of the endpoint.

    At most `at_once` parts of a request are under way at a time.
    """

    rows: int = Field(ge=1)
    at_once: int = Field(default=8, ge=1, le=256)
