"""A replica of the stable version with candidates beside it, over raw ASGI, with real models on both sides."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightmill.errors import RequestError, TooBusyError, UnavailableError
from lightmill.models.classifier import Classifier
from lightmill.records.signals import TargetCounts
from lightmill.records.traffic import TrafficPlan
from lightmill.serving.asgi import Scope
from lightmill.serving.batcher import Batcher
from lightmill.serving.front import CALLER
from lightmill.serving.service import InferenceService
from lightmill.serving.signals.predictions import Predicted
from lightmill.serving.tensors import InferRequest, InferResponse, Tensor
from lightmill.serving.traffic.choice import point_of
from lightmill.serving.traffic.differences import Differing
from lightmill.serving.traffic.traffic import Traffic
from tests.unit.serving.test_service import MODEL_UNDER_TEST, VERSION, body
from tests.unit.serving.traffic.plans import Local, plan, target, version


def opposite() -> Classifier:
    """A model that answers otherwise."""
    module = nn.Linear(2, 3)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        module.bias.zero_()
    return Classifier(MODEL_UNDER_TEST.card, module)


OTHER = opposite()


def service(model: Any = MODEL_UNDER_TEST, seq: int = VERSION.seq) -> InferenceService:
    batcher = Batcher(model.predict, max_rows=16, max_wait_s=0, inline=True)
    return InferenceService("digits", version(seq), model.card, batcher, None)


@dataclass
class Caller:
    id: str


class Replica:
    """A stable version whose candidates are `c` (answers otherwise), `same` (answers alike) and `gone`."""

    def __init__(self, followed: TrafficPlan | None, chance: float = 0.0) -> None:
        self.local = Local({"app-c": service(OTHER, 5), "app-same": service(seq=6)})
        self.now = 0.0
        self.traffic = Traffic("4", self.local, chance=lambda: chance, clock=lambda: self.now)
        self.traffic.follow(followed)
        self.offered: list[Differing] = []
        self.traffic.offer = self.offered.append
        self.service = service()
        self.service.traffic = self.traffic

    def ask(self, count: int = 1, path: str = "/infer", caller: str = "", **headers: str) -> list[str]:
        """Return the versions that answered so many requests, or the statuses of those that failed."""
        return asyncio.run(self._asked(count, path, caller, headers))

    async def _asked(self, count: int, path: str, caller: str, headers: dict[str, str]) -> list[str]:
        found = [await self._one(path, caller, headers) for _ in range(count)]
        await self.traffic.settled()
        return found

    async def _one(self, path: str, caller: str, headers: dict[str, str]) -> str:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body([[5.0, 0.0]])}

        async def send(message: Any) -> None:
            sent.append(message)

        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope: Scope = {"type": "http", "method": "POST", "path": "/v2/models/digits" + path, "headers": raw}
        scope |= {"root_path": "/v2/models/digits"}
        if caller:
            scope[CALLER] = Caller(caller)
        await self.service(scope, receive, send)
        status = sent[0]["status"]
        return json.loads(sent[1]["body"])["model_version"] if status == 200 else str(status)

    def counts(self, name: str) -> TargetCounts:
        found = self.traffic.signals()
        assert found is not None
        return next(one for one in found.window if one.name == name)


def test_shares_go_to_the_candidate_and_the_rest_stays() -> None:
    followed = plan(target("c", 30.0, canary=True))
    assert Replica(followed, chance=0.69).ask() == ["4"]
    replica = Replica(followed, chance=0.71)
    assert replica.ask(3) == ["5"] * 3
    assert replica.counts("c").requests == 3 and replica.counts("c").errors == 0
    assert replica.ask(2, "/versions/4/infer") == ["4"] * 2  # who names the version gets it


def test_a_service_without_candidates_asks_nobody_and_counts_nothing() -> None:
    replica = Replica(None)
    assert replica.ask(2) == ["4", "4"] and replica.local.asked == []
    replica.service.traffic = None
    assert replica.ask(2) == ["4", "4"] and replica.traffic.signals() is not None


def test_clients_stay_with_a_version_by_key_or_by_header() -> None:
    for sticky, made in (
        ({"by": "key"}, lambda who: {"caller": who}),
        ({"by": "header", "header": "x-user"}, lambda who: {"x_user": who}),
    ):
        replica = Replica(plan(target("c", 50.0, canary=True), sticky=sticky), chance=0.0)
        for n in range(40):
            expected = "5" if point_of("digits", f"user-{n}".encode()) >= 50 else "4"
            assert set(replica.ask(2, **made(f"user-{n}"))) == {expected}
    assert replica.ask(2) == ["4", "4"]  # without the header, by chance


@pytest.mark.parametrize("error", [UnavailableError("away"), TooBusyError("full"), RequestError("another signature")])
def test_whatever_goes_wrong_with_a_candidate_the_stable_version_answers(error: Any) -> None:
    replica = Replica(plan(target("c", 100.0, canary=True)))
    replica.local.error = error
    assert replica.ask(5) == ["4"] * 5
    found = replica.counts("c")
    assert (found.requests, found.errors, found.fallbacks) == (5, 5, 5)
    assert replica.counts("stable").requests == 5 and replica.counts("stable").errors == 0


def test_one_that_does_not_answer_in_time_is_asked_less_and_less() -> None:
    replica = Replica(plan(target("c", 100.0, canary=True), timeout_s=0.01))
    replica.local.delay_s = 5.0
    assert replica.ask(10) == ["4"] * 10
    assert len(replica.local.asked) == 3 and replica.counts("c").errors == 10
    replica.now = 1.5
    assert replica.ask(2) == ["4"] * 2 and len(replica.local.asked) == 4
    replica.local.delay_s, replica.now = 0.0, 100.0
    assert replica.ask(3) == ["5"] * 3


def test_a_request_that_fits_no_version_is_the_clients_and_costs_no_candidate_an_error() -> None:
    replica = Replica(plan(target("c", 100.0, canary=True)))

    async def asked() -> None:
        wrong = Tensor(name="y", datatype="FP32", array=np.zeros((1, 2), np.float32))
        with pytest.raises(RequestError, match="'x'"):
            await replica.service.infer(InferRequest(inputs=(wrong,)))

    asyncio.run(asked())
    assert replica.local.asked == []


def test_what_comes_by_handle_is_shared_too() -> None:
    replica = Replica(plan(target("c", 50.0, canary=True), target("same", shadow=1.0, seq=6), sticky={"by": "key"}))
    request = InferRequest(inputs=(Tensor(name="x", datatype="FP32", array=np.ones((1, 2), np.float32)),))

    async def asked(caller: str) -> InferResponse:
        found = await replica.service.infer(request, caller=caller)
        await replica.traffic.settled()
        return found

    for n in range(20):
        expected = "5" if point_of("digits", f"{n}".encode()) >= 50 else "4"
        assert asyncio.run(asked(f"{n}")).version == expected
    assert replica.counts("same").shadows == replica.counts("stable").requests > 0


def test_shadows_are_asked_beside_the_answer_compared_and_counted() -> None:
    replica = Replica(plan(target("c", shadow=1.0), target("same", shadow=1.0, seq=6), target("gone", shadow=1.0)))
    assert replica.ask(4) == ["4"] * 4
    assert (replica.counts("c").shadows, replica.counts("c").differed) == (4, 4)
    assert (replica.counts("same").shadows, replica.counts("same").differed) == (4, 0)
    assert (replica.counts("gone").shadows, replica.counts("gone").shadow_errors) == (0, 4)
    assert {one.target.name for one in replica.offered} == {"c"} and len(replica.offered) == 4
    assert {one.output for one in replica.offered[0].differences} == {"probabilities", "label"}
    assert replica.counts("stable").requests == 4


def test_a_shadow_gets_its_share() -> None:
    for chance, expected in ((0.3, []), (0.2, ["app-c"])):
        replica = Replica(plan(target("c", shadow=0.25)), chance=chance)
        replica.ask()
        assert replica.local.asked == expected


def test_under_pressure_copies_are_dropped_and_answers_do_not_wait() -> None:
    replica = Replica(plan(target("same", shadow=1.0, seq=6), shadow_in_flight=2))
    replica.local.delay_s = 0.05
    assert replica.ask(6) == ["4"] * 6
    found = replica.counts("same")
    assert found.shadow_dropped == 4 and found.shadows == 2
    assert replica.ask() == ["4"] and replica.counts("same").shadows == 3  # places were given back


def test_counts_begin_anew_with_each_change_of_shares_and_totals_go_on() -> None:
    replica = Replica(plan(target("c", 100.0, canary=True)))
    replica.ask(3)
    replica.traffic.follow(plan(target("c", 100.0, canary=True)))
    assert replica.counts("c").requests == 3
    replica.traffic.follow(plan(target("c", 100.0, canary=True), generation=2))
    replica.ask(2)
    found = replica.traffic.signals()
    assert found is not None and found.generation == 2
    assert [one.requests for one in found.window] == [2] and [one.requests for one in found.totals] == [5]


def test_what_is_remembered_is_bounded() -> None:
    replica = Replica(None)
    for n in range(200):
        replica.traffic.follow(plan(target(f"c{n}", 100.0, canary=True, seq=n + 1), generation=n + 1))
        replica.ask()
    found = replica.traffic.signals()
    assert found is not None and len(found.totals) < 40


def test_an_error_of_the_stable_version_is_counted_as_its() -> None:
    replica = Replica(plan(target("c", 0.0, shadow=0.0, canary=True)))

    def broken(_: Any) -> Any:
        raise RuntimeError("broken")

    batcher = Batcher(broken, max_rows=16, max_wait_s=0, inline=True)
    replica.service = InferenceService("digits", VERSION, MODEL_UNDER_TEST.card, batcher, None)
    replica.service.traffic = replica.traffic
    assert replica.ask() == ["500"]
    assert (replica.counts("stable").requests, replica.counts("stable").errors) == (1, 1)


class Everything:
    """A prediction log that wants every request."""

    def __init__(self) -> None:
        self.offered: list[Predicted] = []

    def wants(self) -> bool:
        return True

    def offer(self, predicted: Predicted) -> None:
        self.offered.append(predicted)


def test_whoever_answers_a_client_logs_the_prediction_and_nobody_logs_a_copy() -> None:
    row = Tensor(name="x", datatype="FP32", array=np.ones((1, 2), np.float32))
    for followed, stable, candidate in (
        (plan(target("c", 100)), 0, 1),
        (plan(target("c", shadow=1.0)), 1, 0),
        (plan(target("gone", 100)), 1, 0),
    ):
        replica = Replica(followed)
        logs = Everything(), Everything()
        replica.service.predictions, replica.local.services["app-c"].predictions = logs  # pyright: ignore[reportAttributeAccessIssue]
        replica.ask()
        found = asyncio.run(replica.service.infer(InferRequest(inputs=(row,), id="mine")))
        assert found.outputs
        assert [len(log.offered) for log in logs] == [2 * stable, 2 * candidate]
        kept = [one for log in logs for one in log.offered][-1]
        assert (kept.request_id, kept.rows, kept.size_bytes) == ("mine", 1, 8)
