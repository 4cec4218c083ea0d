"""A request through a graph: order, joins, rows to their cases, and failures by name."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmill.errors import NotFoundError, RequestError, TooBusyError
from lightmill.serving.graphs.running import voted
from tests.unit.serving.graphs.members import run
from tests.unit.serving.graphs.test_plan import bound, parallel, sequence, switch

ROWS = np.arange(20, dtype=np.float32).reshape(5, 4)


def constant(label: int) -> Any:
    def answer(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = len(inputs["x"])
        shares = np.full((rows, 3), 0.1, dtype=np.float32) * (label + 1)
        return {"probabilities": shares, "label": np.full(rows, label, dtype=np.int64)}

    return answer


def test_steps_get_what_earlier_ones_returned() -> None:
    asked: list[Any] = []
    answers = {"first": constant(2), "both": lambda inputs: {"value": inputs["x"][:, 0] + inputs["features"][:, 0]}}
    found = run(sequence("first", bound("both", features="probabilities")), answers, asked, x=ROWS)
    np.testing.assert_allclose(found["value"], ROWS[:, 0] + 0.3)
    assert [name for name, _ in asked] == ["first", "both"]
    assert all(request.priority == 1 and request.id == "r1" and 4 < request.timeout_s <= 5 for _, request in asked)


def test_branches_are_averaged_voted_and_put_side_by_side() -> None:
    answers = {"first": constant(0), "second": constant(1), "third": constant(1)}
    names = tuple(answers)
    mean = run(parallel("mean", *names), answers, x=ROWS)["probabilities"]
    np.testing.assert_allclose(mean, np.full((5, 3), 0.5 / 3), rtol=1e-6)
    assert mean.dtype == np.float32
    assert run(parallel("vote", *names), answers, x=ROWS)["label"].tolist() == [1] * 5
    side = run(parallel("concat", *names), answers, x=ROWS)
    assert side["probabilities"].shape == (5, 9) and side["label"].tolist() == [[0, 1, 1]] * 5


def test_rows_go_to_their_cases_and_come_back_in_their_order() -> None:
    asked: list[Any] = []
    answers = {"first": constant(0), "second": constant(1), "third": constant(2)}
    graph = {**switch(de="first", fr="second"), "default": "third"}
    lang = np.array([b"fr", "de", b"it", b"de", b"fr"], dtype=object)
    found = run(graph, answers, asked, x=ROWS, lang=lang)
    assert found["label"].tolist() == [1, 0, 2, 0, 1]
    rows = {name: request.inputs[0].array[:, 0].tolist() for name, request in asked}
    assert rows == {"second": [0, 16], "first": [4, 12], "third": [8]}
    with pytest.raises(RequestError, match=r"inputs\['lang'\] is 'it', for which the graph has no case; there are de"):
        run(switch(de="first", fr="second"), answers, x=ROWS, lang=lang)


def test_a_switch_may_go_by_what_an_earlier_step_answered() -> None:
    def parity(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = constant(0)(inputs)
        return {**found, "label": (inputs["x"][:, 0] / 4 % 2).astype(np.int64)}

    graph = sequence("first", {"kind": "switch", "field": "label", "cases": {"0": "second", "1": "third"}})
    found = run(graph, {"first": parity, "second": constant(1), "third": constant(2)}, x=ROWS)
    assert found["label"].tolist() == [1, 2, 1, 2, 1]


def test_what_fails_is_named_and_keeps_its_kind() -> None:
    def busy(_: Any) -> Any:
        raise TooBusyError("the queue is full.", retry_after_s=3.0)

    with pytest.raises(TooBusyError, match="Endpoint 'second' of this graph: the queue is full") as caught:
        run(parallel("mean", "first", "second"), {"first": constant(0), "second": busy}, x=ROWS)
    assert caught.value.retry_after_s == 3.0
    with pytest.raises(RequestError, match="must hold 'x', which this graph needs; given 'y'"):
        run("first", {"first": constant(0)}, y=ROWS)
    assert not issubclass(RequestError, NotFoundError)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=5))
def test_votes_are_counted_and_the_first_of_the_most_wins(rows: list[list[int]]) -> None:
    width = min(map(len, rows))
    values = np.array([row[:width] for row in rows])
    wanted = [Counter(row[:width]).most_common(1)[0][0] for row in rows]
    assert voted(values).tolist() == wanted
