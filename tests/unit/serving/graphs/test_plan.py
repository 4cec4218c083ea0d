"""What a graph takes and answers follows from its members; what does not fit is refused by its field."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lightmill.errors import NotFoundError, RequestError
from lightmill.serving.graphs.plan import Source
from tests.unit.serving.graphs.members import GRAPHS, LABEL, P, X, planned, spec


def sequence(*steps: Any) -> dict[str, Any]:
    return {"kind": "sequence", "steps": list(steps)}


def parallel(join: str, *branches: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "parallel", "join": join, "branches": list(branches), **more}


def bound(endpoint: str, **inputs: str) -> dict[str, Any]:
    return {"kind": "endpoint", "endpoint": endpoint, "inputs": inputs}


def switch(**cases: Any) -> dict[str, Any]:
    return {"kind": "switch", "field": "lang", "cases": cases}


@pytest.mark.parametrize(
    ("graph", "inputs", "outputs"),
    [
        ("first", (X,), (P, LABEL)),
        (sequence("first", bound("stacked", features="probabilities")), (X,), (spec("value", "FP32", -1),)),
        (sequence("first", bound("doubles", features="probabilities")), (X,), (spec("value", "FP64", -1),)),
        (bound("first", x="pixels"), (spec("pixels", "FP32", -1, 4),), (P, LABEL)),
        (parallel("mean", "first", "second"), (X,), (P,)),
        (parallel("vote", "first", "second", "third"), (X,), (LABEL,)),
        (
            parallel("concat", "first", "four"),
            (X,),
            (spec("probabilities", "FP32", -1, 7), spec("label", "INT64", -1, 2)),
        ),
        (parallel("concat", "first", "four", outputs=["label"]), (X,), (spec("label", "INT64", -1, 2),)),
        (switch(de="first", fr="second"), (X, spec("lang", "BYTES", -1)), (P, LABEL)),
        (switch(**{"1": "first", "-2": "second"}), (X, spec("lang", "INT64", -1)), (P, LABEL)),
        (sequence("first", bound("both", features="probabilities")), (X,), (spec("value", "FP32", -1),)),
        (
            sequence("first", bound("stacked", features="request.extra")),
            (X, spec("extra", "FP32", -1, 3)),
            (spec("value", "FP32", -1),),
        ),
    ],
)
def test_a_graph_takes_and_answers(graph: Any, inputs: Any, outputs: Any) -> None:
    found = planned(graph).signature
    assert found.inputs == inputs and found.outputs == outputs


def test_a_step_is_given_what_the_nearest_earlier_one_returned() -> None:
    root: Any = planned(sequence("first", bound("both", features="probabilities"))).root
    assert root.steps[1].inputs == {
        "x": Source(name="x", request=True),
        "features": Source(name="probabilities", request=False),
    }


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (sequence("first", "stacked"), r"graph\.steps\[1\]\.inputs\.features is 'features', which no earlier step"),
        (sequence("first", bound("whole", features="probabilities")), r"steps\[1\]\.inputs\.features takes .* INT64"),
        (sequence("four", bound("stacked", features="probabilities")), r"\[batch, 3\], but .*\[batch, 4\]"),
        (bound("first", y="x"), r"graph\.inputs has 'y', which endpoint 'first' does not take; it takes x"),
        (parallel("mean", "first", "wide"), r"branches\[1\]\.inputs\.x takes 'x' FP32 \[batch, 5\]"),
        (parallel("mean", "first", "four"), r"graph\.join is 'mean', and the branches have no output"),
        (parallel("mean", "first", "second", outputs=["label"]), r"graph\.outputs has 'label', which 'mean' cannot"),
        (parallel("vote", "first", "second", outputs=["nothing"]), "no such output"),
        (switch(de="first", fr="four"), r"graph\.cases return different outputs"),
        ({**switch(de="first"), "field": "x"}, r"graph\.field is 'x', .*needs one whole number or text a row"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(graph: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        planned(graph)


def test_an_unknown_endpoint_is_named_with_its_place() -> None:
    with pytest.raises(NotFoundError, match=r"Field graph\.branches\[1\] is endpoint 'nobody': No endpoint"):
        planned(parallel("mean", "first", "nobody"))


@pytest.mark.parametrize(
    "graph",
    [
        sequence(),
        parallel("mean", "first"),
        parallel("least", "first", "second"),
        {"kind": "loop"},
        "No Name",
        switch(),
    ],
)
def test_what_is_no_graph_is_refused(graph: Any) -> None:
    with pytest.raises((ValidationError, RequestError)):
        GRAPHS.validate_python(graph)
