"""Runs the plan of a graph for one request. What endpoints answer comes by a function; nothing of Ray is known here.

What fails first fails the request, with the endpoint's name; what else is under way is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lightmill.errors import LightmillError, RequestError
from lightmill.serving.graphs.plan import Call, Chain, Choice, Fan, Source, Step
from lightmill.serving.tensors import DTYPES, Array, InferRequest, InferResponse, Tensor, short

Ask = Callable[[str, InferRequest], Awaitable[InferResponse]]
"""Asks an endpoint, by its name."""
Tensors = dict[str, Tensor]


class Run:
    """One request through a graph."""

    def __init__(self, request: InferRequest, ask: Ask) -> None:
        self._request = request
        self._given = {tensor.name: tensor for tensor in request.inputs}
        self._ask = ask
        limit = request.timeout_s
        self._deadline = None if limit is None else asyncio.get_running_loop().time() + limit

    async def outputs(self, root: Step) -> Tensors:
        """Return the outputs of the graph by name.

        Raises:
            RequestError: The request does not fit an endpoint, lacks an input, or has a value that no case is for.
            LightmillError: What the first endpoint that failed raised, with its name.
        """
        return await self._step(root, {}, None)

    async def _step(self, step: Step, known: Tensors, rows: Array | None) -> Tensors:
        match step:
            case Call():
                return await self._call(step, known, rows)
            case Chain():
                outputs = known
                for one in step.steps:
                    outputs = await self._step(one, known, rows)
                    known = {**known, **outputs}
                return outputs
            case Fan():
                found = await together([self._step(one, known, rows) for one in step.branches])
                return {name: joined(step.join, [one[name] for one in found]) for name in step.outputs}
            case Choice():
                return await self._choice(step, known, rows)

    async def _call(self, step: Call, known: Tensors, rows: Array | None) -> Tensors:
        inputs = tuple(replace(self._tensor(source, known, rows), name=name) for name, source in step.inputs.items())
        left_s = None
        if self._deadline is not None:
            left_s = max(0.001, self._deadline - asyncio.get_running_loop().time())
        asked = InferRequest(inputs=inputs, id=self._request.id, priority=self._request.priority, timeout_s=left_s)
        try:
            answer = await self._ask(step.endpoint, asked)
        except LightmillError as exc:
            raise _of(step.endpoint, exc) from exc
        return {tensor.name: tensor for tensor in answer.outputs}

    async def _choice(self, step: Choice, known: Tensors, rows: Array | None) -> Tensors:
        values = [_text(value) for value in self._tensor(step.field, known, rows).array.reshape(-1)]
        places: dict[str | None, list[int]] = {}
        for place, value in enumerate(values):
            places.setdefault(value if value in step.cases else None, []).append(place)
        if None in places and step.default is None:
            raise RequestError(
                f"Field inputs[{step.field.name!r}] is {short(values[places[None][0]])}, for which the graph has no "
                f"case; there are {', '.join(step.cases)}."
            )
        work = []
        for value, some in places.items():
            chosen = step.default if value is None else step.cases[value]
            mine = np.array(some) if rows is None else rows[some]
            part = {name: replace(tensor, array=tensor.array[some]) for name, tensor in known.items()}
            assert chosen is not None  # noqa: S101 - refused above
            work.append(self._step(chosen, part, mine))
        found = await together(work)
        back = np.argsort(np.concatenate([np.array(some) for some in places.values()]), kind="stable")
        return {name: gathered([one[name] for one in found], back) for name in found[0]}

    def _tensor(self, source: Source, known: Tensors, rows: Array | None) -> Tensor:
        """Return an input; `rows` are those of the request that this step is for, None for all."""
        if not source.request:
            return known[source.name]
        found = self._given.get(source.name)
        if found is None:
            given = ", ".join(map(short, list(self._given)[:8])) or "none"
            raise RequestError(f"Field 'inputs' must hold {source.name!r}, which this graph needs; given {given}.")
        return found if rows is None else replace(found, array=found.array[rows])


async def together(work: Sequence[Coroutine[Any, Any, Tensors]]) -> list[Tensors]:
    """Return the results of all, or raise what the first that failed raised, when the others have ended."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def joined(join: str, tensors: Sequence[Tensor]) -> Tensor:
    """Return branches' tensors of one name as one; see `records.graphs.ParallelNode`.

    Raises:
        RequestError: Their shapes differ.
    """
    first = tensors[0]
    arrays = [tensor.array for tensor in tensors]
    if join == "concat" and first.array.ndim > 1:
        if len({array.shape[:-1] for array in arrays}) > 1:
            raise _unlike(first.name, arrays)
        return replace(first, array=np.concatenate(arrays, axis=-1))
    if len({array.shape for array in arrays}) > 1:
        raise _unlike(first.name, arrays)
    stacked = np.stack(arrays, axis=-1)
    if join == "concat":
        return replace(first, array=stacked)
    if join == "mean":
        return replace(first, array=stacked.mean(axis=-1, dtype=np.float64).astype(DTYPES[first.datatype]))
    return replace(first, array=voted(stacked))


def voted(stacked: Array) -> Array:
    """Return, of values [..., voters], those that most voters say, of several the first one said."""
    votes = (stacked[..., :, None] == stacked[..., None, :]).sum(axis=-1)
    best = votes.argmax(axis=-1)
    return np.take_along_axis(stacked, best[..., None], axis=-1)[..., 0]


def gathered(parts: Sequence[Tensor], back: Array) -> Tensor:
    """Return the rows of parts in the order that `back` gives the joined rows.

    Raises:
        RequestError: Rows of the parts have different shapes.
    """
    arrays = [part.array for part in parts]
    if len({array.shape[1:] for array in arrays}) > 1:
        raise _unlike(parts[0].name, arrays)
    return replace(parts[0], array=np.concatenate(arrays)[back])


def _unlike(name: str, arrays: Sequence[Array]) -> RequestError:
    shapes = ", ".join(str(list(array.shape)) for array in arrays)
    return RequestError(f"Output {name!r} has different shapes in the parts of this graph: {shapes}.")


def _text(value: Any) -> str:
    """Return a value as cases name it."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return str(value)


def _of(endpoint: str, exc: LightmillError) -> LightmillError:
    """Return an error of the same kind whose message names the endpoint."""
    found = type(exc)(f"Endpoint {endpoint!r} of this graph: {exc.message}")
    if hasattr(exc, "retry_after_s"):
        found.retry_after_s = exc.retry_after_s  # pyright: ignore[reportAttributeAccessIssue]
    return found
