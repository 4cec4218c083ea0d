"""Many models behind one endpoint."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from pydantic import Field, field_validator

from lightmill.records.base import Record
from lightmill.records.references import LATEST, check_alias

_PATTERN = re.compile(r"[a-z0-9*?]([a-z0-9._*?-]{0,62}[a-z0-9*?])?")


class ModelsSpec(Record):
    """Further models that an endpoint answers with; a request names one in its header `x-model`.

    `names` are names of models, or patterns of them with `*` and `?`. Of each its `alias` answers, or `latest`, looked
    up again after `follow_s`. A replica holds weights of at most `memory_mb` megabytes (10^6 bytes), those of the
    endpoint's own model not counted; what was used longest ago goes first.
    """

    names: tuple[str, ...] = Field(min_length=1)
    alias: str = "champion"
    memory_mb: float = Field(gt=0)
    follow_s: float = Field(default=10.0, ge=0)

    @field_validator("names")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _PATTERN.fullmatch(name):
                raise ValueError(f"{name!r} is no name of models, and no pattern of names, such as store-*")
        return value

    @field_validator("alias")
    @classmethod
    def _alias(cls, value: str) -> str:
        return value if value == LATEST else check_alias(value)

    def takes(self, name: str) -> bool:
        """Say whether a model of this name may be asked for."""
        return any(fnmatchcase(name, pattern) for pattern in self.names)

    @property
    def memory_bytes(self) -> int:
        """How many bytes of weights a replica holds."""
        return int(self.memory_mb * 1_000_000)
