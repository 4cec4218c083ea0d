"""What goes into a model and what comes out: named tensors with dtype and shape."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lightmill.errors import RequestError
from lightmill.records.base import Record

Datatype = Literal["BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP32", "FP64", "BYTES"]


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


class Architecture(Record):
    """A model's architecture: a registered name and the arguments that build it."""

    name: str
    arguments: dict[str, int | float | str | bool | list[int]] = Field(default_factory=dict)

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
        return Architecture(name=self.name, arguments={**self.arguments, **sizes})
