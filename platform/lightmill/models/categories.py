"""Which places of a row of features hold codes of categories, as the fitted preparation makes them. No torch."""

from __future__ import annotations

import math

from lightmill.errors import RequestError
from lightmill.records.fitted import FittedImpute, FittedOneHot, FittedOrdinal, FittedStep, TabularPreparation
from lightmill.records.preparation import Derive, Features, ImageDecode, ImageResize, Python, Tokenize

_KEEP_CODES = ("impute", "ordinal", "features", "filter", "deduplicate", "text_normalize", "tokenize")


def category_places(preparation: TabularPreparation) -> tuple[list[int], list[int]]:
    """Return the places of `ordinal` columns among the features, and how many codes each has.

    Raises:
        RequestError: A column has a width that cannot be told from the steps.
    """
    steps = preparation.fitted.steps
    widths = {column.name: math.prod(column.shape or (1,)) for column in preparation.columns}
    codes: dict[str, int] = {}
    order: tuple[str, ...] = ()
    for step in steps:
        widths |= _widths(step)
        if isinstance(step, FittedOrdinal):
            codes |= {
                name: len(known) + (step.unknown == "other")
                for name, known in zip(step.columns, step.categories, strict=True)
            }
        elif isinstance(step, Features):
            order = step.columns if step.name == "features" else order
        elif step.step not in _KEEP_CODES:
            for name in _changed(step):
                codes.pop(name, None)
    places, sizes, place = [], [], 0
    for name in order:
        if name in codes:
            places.append(place)
            sizes.append(codes[name])
        place += widths.get(name, 1)
    if place != preparation.width:
        raise RequestError(
            f"The steps make {place} features as far as can be told, but there are {preparation.width}; give "
            "architecture.arguments.category_places and category_sizes."
        )
    return places, sizes


def _widths(step: FittedStep) -> dict[str, int]:
    if isinstance(step, FittedOneHot):
        return {
            name: len(known) + (step.unknown == "other")
            for name, known in zip(step.columns, step.categories, strict=True)
        }
    if isinstance(step, FittedImpute) and step.indicator:
        return {f"{name}_missing": 1 for name in step.columns}
    if isinstance(step, Python):
        return {column.name: math.prod(column.shape or (1,)) for column in step.makes}
    if isinstance(step, Features) and step.width():
        return {step.name: step.width() or 1}
    return {}


def _changed(step: FittedStep) -> tuple[str, ...]:
    """Return the columns that a step writes anew."""
    if isinstance(step, Derive | ImageDecode | ImageResize | Tokenize):
        return (step.column,)
    if isinstance(step, Python):
        return tuple(column.name for column in step.makes)
    return getattr(step, "columns", ())
