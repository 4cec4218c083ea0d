"""Plain JSON rows: a list of objects by column name in, a list of objects by output name out.

A column that a row leaves out, or null, is a missing value, where the model takes named columns.
"""

from __future__ import annotations

from typing import Any

from lightmill.errors import RequestError
from lightmill.records.signature import TensorSpec
from lightmill.serving.fitting import field_of
from lightmill.serving.protocols.forms import JSON, Form, Reply, content_type
from lightmill.serving.protocols.values import array_of, decoded, dump, listed, load, rows_of
from lightmill.serving.tensors import Body, InferRequest, InferResponse, ModelDescription, Tensor, kind_of, short

_MISSING = object()


def parse(body: Body, model: ModelDescription, form: Form) -> InferRequest:
    """Read rows.

    Raises:
        RequestError: It is no list of objects, or a row has an unknown column or lacks one that cannot be missing.
    """
    return InferRequest(inputs=tensors(load(body), model, "The body"), outputs=form.outputs)


def tensors(rows: Any, model: ModelDescription, what: str) -> tuple[Tensor, ...]:
    """Return the inputs that a list of rows holds; a model of one input takes values as well as objects.

    Raises:
        RequestError: As for `parse`; `what` names the list.
    """
    if type(rows) is not list or not rows:
        raise RequestError(f"{what} must be a list of at least one row; given {kind_of(rows)}.")
    first, *others = specs = model.signature.inputs
    kinds = set(map(type, rows))
    if dict not in kinds or (kinds == {dict} and not others and all(row.keys() == {"b64"} for row in rows)):
        if others:
            raise RequestError(
                f"{what} must hold one object a row with the columns {', '.join(spec.name for spec in specs)}; "
                f"given {kind_of(rows[0])}."
            )
        return (of_values(rows, first, model),)
    if kinds != {dict}:
        odd = next(row for row in rows if type(row) is not dict)
        raise RequestError(f"{what} must hold objects only, as its first row does; it holds {kind_of(odd)} too.")
    names = {spec.name for spec in specs}
    for place, row in enumerate(rows):
        unknown = row.keys() - names
        if unknown:
            raise RequestError(
                f"{what}: row {place} has an unknown column {short(min(unknown))}; the model takes "
                f"{', '.join(spec.name for spec in specs)}."
            )
    return tuple(of_values(_column(rows, spec, model, what), spec, model) for spec in specs)


def of_values(values: list[Any], spec: TensorSpec, model: ModelDescription) -> Tensor:
    """Return a tensor of JSON values, one a row."""
    field = field_of(spec.name)
    try:
        values = decoded(values, field)
    except RecursionError as exc:
        raise RequestError(f"Field {field} is nested too deep.") from exc
    array = rows_of(values) if model.by_column else array_of(values, spec.datatype, field)
    return Tensor(name=spec.name, datatype=spec.datatype, array=array)


def _column(rows: list[dict[str, Any]], spec: TensorSpec, model: ModelDescription, what: str) -> list[Any]:
    missing = None if model.by_column else _MISSING
    values = [row.get(spec.name, missing) for row in rows]
    if missing is _MISSING and _MISSING in values:
        raise RequestError(f"{what}: row {values.index(_MISSING)} lacks {spec.name!r}.")
    if model.by_column and not any(spec.name in row for row in rows):
        raise RequestError(f"{what}: no row has the column {spec.name!r}; write null where a value is missing.")
    return values


def objects(response: InferResponse) -> list[dict[str, Any]]:
    """Return one object a row, by output name."""
    columns = {tensor.name: listed(tensor.array, repr(tensor.name)) for tensor in response.outputs}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def write(response: InferResponse, request: InferRequest) -> Reply:
    """Return the answers as a JSON list of objects."""
    return Reply(body=dump(objects(response)), headers=content_type(JSON))
