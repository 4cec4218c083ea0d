"""Endpoints of a graph without models: what they take and answer, and functions that stand for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from lightmill.errors import NotFoundError
from lightmill.records.graphs import GraphNode
from lightmill.records.signature import Signature, TensorSpec
from lightmill.serving.graphs.plan import Plan, plan_of
from lightmill.serving.graphs.running import Run
from lightmill.serving.tensors import InferRequest, InferResponse, ModelDescription, Tensor

GRAPHS: TypeAdapter[Any] = TypeAdapter(GraphNode)


def spec(name: str, datatype: Any, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape)


X, P, LABEL = spec("x", "FP32", -1, 4), spec("probabilities", "FP32", -1, 3), spec("label", "INT64", -1)
SIGNATURES = {
    "first": Signature(inputs=(X,), outputs=(P, LABEL)),
    "second": Signature(inputs=(X,), outputs=(P, LABEL)),
    "third": Signature(inputs=(X,), outputs=(P, LABEL)),
    "stacked": Signature(inputs=(spec("features", "FP32", -1, 3),), outputs=(spec("value", "FP32", -1),)),
    "doubles": Signature(inputs=(spec("features", "FP64", -1, -1),), outputs=(spec("value", "FP64", -1),)),
    "whole": Signature(inputs=(spec("features", "INT64", -1, 3),), outputs=(spec("value", "FP32", -1),)),
    "wide": Signature(inputs=(spec("x", "FP32", -1, 5),), outputs=(P,)),
    "four": Signature(inputs=(X,), outputs=(spec("probabilities", "FP32", -1, 4), LABEL)),
    "both": Signature(inputs=(X, spec("features", "FP32", -1, 3)), outputs=(spec("value", "FP32", -1),)),
}


def describe(name: str) -> ModelDescription:
    if name not in SIGNATURES:
        raise NotFoundError(f"No endpoint named {name!r}.")
    return ModelDescription(name=name, version="1", signature=SIGNATURES[name])


def planned(graph: Any) -> Plan:
    return plan_of(GRAPHS.validate_python(graph), describe)


Answer = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def run(graph: Any, answers: dict[str, Answer], asked: list[Any] | None = None, **inputs: np.ndarray) -> dict[str, Any]:
    """Run a graph over functions; what was asked goes into `asked`."""
    plan = planned(graph)
    types = {one.name: one.datatype for one in plan.signature.inputs}

    async def ask(name: str, request: InferRequest) -> InferResponse:
        if asked is not None:
            asked.append((name, request))
        await asyncio.sleep(0)
        found = answers[name]({tensor.name: tensor.array for tensor in request.inputs})
        specs = {one.name: one.datatype for one in SIGNATURES[name].outputs}
        return InferResponse(
            model=name,
            version="1",
            outputs=tuple(Tensor(name=key, datatype=specs[key], array=value) for key, value in found.items()),
        )

    async def whole() -> dict[str, Any]:
        tensors = tuple(Tensor(name=key, datatype=types.get(key, "FP32"), array=one) for key, one in inputs.items())
        request = InferRequest(inputs=tensors, timeout_s=5.0, priority=1, id="r1")
        return {key: one.array for key, one in (await Run(request, ask).outputs(plan.root)).items()}

    return asyncio.run(whole())
