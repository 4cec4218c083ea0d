"""What goes into a model and what comes out: named tensors with dtype and shape."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from lightmill.errors import RequestError
from lightmill.records.base import Record

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BF16",
    "BYTES",
]


class TensorSpec(Record):
    """One named tensor. `datatype` is the Open Inference Protocol's name; -1 in `shape` means any size."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]


class Signature(Record):
    """The inputs and outputs of a model, in order; the first dimension of each is the batch."""

    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)


class Standardize(Record):
    """A fitted standardization: (x - mean) / scale for every feature; a constant feature has scale 1."""

    step: Literal["standardize"] = "standardize"
    mean: tuple[float, ...]
    scale: tuple[float, ...]


class Preprocessing(Record):
    """Fitted preparation steps in the order in which they apply; carried as JSON, never pickled."""

    steps: tuple[Standardize, ...] = ()


CUSTOM = "custom"
_ENTRYPOINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
Argument = int | float | str | bool | list[int] | dict[str, JsonValue]


class Architecture(Record):
    """A model's architecture: a registered name and the arguments that build it.

    With an `entrypoint`, `package.module:function`, a user's function builds it, and the name is free.
    """

    name: str = CUSTOM
    arguments: dict[str, Argument] = Field(default_factory=dict)
    entrypoint: str | None = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.entrypoint is None and self.name == CUSTOM:
            raise ValueError("give the name of an architecture, or an entrypoint such as 'my_pkg.nets:build'")
        if self.entrypoint is not None and not _ENTRYPOINT.fullmatch(self.entrypoint):
            raise ValueError(f"entrypoint {self.entrypoint!r} must look like 'package.module:function'")
        return self

    def with_arguments(self, **more: Argument) -> Architecture:
        """Return this architecture with more arguments, which go before those that it has."""
        return self.model_copy(update={"arguments": {**self.arguments, **more}})

    def with_sizes(self, **sizes: int) -> Architecture:
        """Return this architecture with the sizes that the dataset decides, by the names of their arguments.

        Raises:
            RequestError: The specification gives one of the sizes, and the dataset has another.
        """
        for key, value in sizes.items():
            given = self.arguments.get(key, value)
            if given != value:
                raise RequestError(
                    f"architecture.arguments.{key} is {given}, but the dataset has {value}; leave {key} out."
                )
        return self.with_arguments(**sizes)
