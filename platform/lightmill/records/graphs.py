"""Several endpoints as one: what is called, in which order, and how answers become one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Field, field_validator

from lightmill.records.base import Record
from lightmill.records.references import check_name

MOST_NODES = 64
DEEPEST = 8
REQUEST = "request."
"""Before a name in `inputs`: it is the request's, whatever earlier steps return."""


class EndpointNode(Record):
    """One endpoint. `inputs` says under which name an earlier step, or the request, has an input of its model."""

    kind: Literal["endpoint"] = "endpoint"
    endpoint: str
    inputs: dict[str, str] = Field(default_factory=dict)

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        return check_name(value, "endpoint")


class SequenceNode(Record):
    """Steps one after another, each given what those before it returned; the answer is that of the last."""

    kind: Literal["sequence"] = "sequence"
    steps: tuple[GraphNode, ...] = Field(min_length=1)


class ParallelNode(Record):
    """Branches at once, whose outputs of the same name become one; `outputs` are those, by default all that can.

    `mean` averages floats, `vote` takes the value that most branches say, of several the earlier branch's, and
    `concat` puts values side by side along the last dimension.
    """

    kind: Literal["parallel"] = "parallel"
    branches: tuple[GraphNode, ...] = Field(min_length=2)
    join: Literal["mean", "vote", "concat"]
    outputs: tuple[str, ...] = ()


class SwitchNode(Record):
    """Each row goes to the case that the value of `field` names, others to `default`, or are refused without one."""

    kind: Literal["switch"] = "switch"
    field: str
    cases: dict[str, GraphNode] = Field(min_length=1)
    default: GraphNode | None = None


def _named(value: Any) -> Any:
    """Return a bare name as the endpoint of that name."""
    return {"kind": "endpoint", "endpoint": value} if isinstance(value, str) else value


GraphNode = Annotated[
    Union[EndpointNode, SequenceNode, ParallelNode, SwitchNode],  # noqa: UP007 - the names are not defined yet
    Field(discriminator="kind"),
    BeforeValidator(_named),
]
for _kind in (SequenceNode, ParallelNode, SwitchNode):
    _kind.model_rebuild()


def nodes_of(node: GraphNode, depth: int = 1) -> Iterator[tuple[GraphNode, int]]:
    """Return a node and all below it, each with its depth."""
    yield node, depth
    below: tuple[GraphNode, ...] = ()
    match node:
        case SequenceNode():
            below = node.steps
        case ParallelNode():
            below = node.branches
        case SwitchNode():
            below = (*node.cases.values(), *((node.default,) if node.default else ()))
    for one in below:
        yield from nodes_of(one, depth + 1)


def endpoints_in(node: GraphNode) -> tuple[str, ...]:
    """Return the endpoints that a graph calls, each once, in their order."""
    found = [one.endpoint for one, _ in nodes_of(node) if isinstance(one, EndpointNode)]
    return tuple(dict.fromkeys(found))


def check_size(node: GraphNode) -> None:
    """Check that a graph is no larger than anybody needs.

    Raises:
        ValueError: It is.
    """
    found = list(nodes_of(node))
    if len(found) > MOST_NODES or max(depth for _, depth in found) > DEEPEST:
        raise ValueError(
            f"the graph has {len(found)} nodes, {max(depth for _, depth in found)} deep; it may have {MOST_NODES}, "
            f"{DEEPEST} deep: make a part of it a graph of its own"
        )
