"""What an endpoint writes down of its requests."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from lightmill.records.base import Record
from lightmill.records.masking import PolicyName


class PredictionLogSpec(Record):
    """A sample of rows and answers, masked, sealed in the store as versions of the run `predictions.<endpoint>`.

    Attributes:
        sample: The share of requests that is kept, 0 for none.
        masking: The masking policy, as `name` or `name@2`; there is no log without one.
        part_rows: A part is written when it has so many rows, or after `part_s` seconds.
        part_s: See `part_rows`.
        buffer_bytes: The most that a replica holds in memory before it drops what comes.
    """

    sample: float = Field(default=0.0, ge=0, le=1)
    masking: PolicyName = ""
    part_rows: int = Field(default=10_000, ge=1, le=1_000_000)
    part_s: float = Field(default=300.0, ge=1)
    buffer_bytes: int = Field(default=16 << 20, ge=1 << 16, le=1 << 30)

    @model_validator(mode="after")
    def _masked(self) -> Self:
        if self.sample and not self.masking:
            raise ValueError(
                "predictions are logged through a masking policy; name one in `masking` (lightmill masking add), or "
                "set `sample: 0`"
            )
        return self


class LogSpec(Record):
    """The logs of an endpoint: `access` is the share of requests that get a line, 0 for none."""

    access: float = Field(default=1.0, ge=0, le=1)
    predictions: PredictionLogSpec = PredictionLogSpec()
