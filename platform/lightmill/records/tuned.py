"""How a replica's model is computed faster: settings that change nothing of what is answered, but for rounding."""

from __future__ import annotations

from pydantic import Field

from lightmill.records.base import Record


class TuningSpec(Record):
    """`compile` has torch generate code for the model before the replica is ready, which takes seconds to minutes.

    `channels_last` puts pictures and weights of convolutions into the order that vector units like. `interop_threads`
    is how many operations that do not wait for each other run at once; `resources.threads` are those of one operation.
    """

    compile: bool = False
    channels_last: bool = False
    interop_threads: int | None = Field(default=None, ge=1, le=256)
