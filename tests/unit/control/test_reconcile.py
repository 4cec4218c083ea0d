"""What to do about endpoints: a table, and a Serve of two lines that is stepped by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from lightmill.control.reconcile import (
    Action,
    Deploy,
    Forget,
    Observe,
    Remove,
    Seen,
    Wanted,
    mark_of,
    reconcile,
)
from lightmill.records.endpoints import Endpoint, EndpointState
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.specs import EndpointSpec

KEYS = "keys-1"


def version(seq: int) -> VersionId:
    return VersionId(kind=AssetKind.MODEL, name="m", seq=seq, digest=f"{seq:064d}")


def endpoint(**fields: object) -> Endpoint:
    return Endpoint.model_validate({"name": "e", "spec": EndpointSpec(name="e", model="m"), **fields})


def wanted(seq: int | None = 1, problem: str = "", **fields: object) -> Wanted:
    return Wanted(endpoint=endpoint(**fields), version=version(seq) if seq else None, problem=problem)


def seen(status: str = "RUNNING", replicas: int = 1, message: str = "") -> dict[str, Seen]:
    return {"e": Seen(status=status, replicas=replicas, message=message)}


def deployed(entry: Wanted, keys: str = KEYS) -> dict[str, str]:
    return {"e": mark_of(entry, keys)}


def observe(state: EndpointState, seq: int | None, replicas: int, message: str = "", revision: int = 1) -> Observe:
    return Observe(
        name="e",
        revision=revision,
        state=state,
        version=version(seq) if seq else None,
        replicas=replicas,
        message=message,
    )


ONE = wanted()
TABLE: dict[str, tuple[list[Wanted], dict[str, Seen], dict[str, str], list[Action]]] = {
    "nothing is wanted, nothing is seen": ([], {}, {}, []),
    "new": ([ONE], {}, {}, [Deploy(wanted=ONE, mark=mark_of(ONE, KEYS)), observe(EndpointState.DEPLOYING, None, 0)]),
    "ready": ([ONE], seen(replicas=2), deployed(ONE), [observe(EndpointState.READY, 1, 2)]),
    "starting": (
        [ONE],
        seen("DEPLOYING", 0, "pulling"),
        deployed(ONE),
        [observe(EndpointState.DEPLOYING, None, 0, "pulling")],
    ),
    "unhealthy keeps the version that answered": (
        [wanted(version=version(1))],
        seen("UNHEALTHY", 1, "one replica died"),
        deployed(ONE),
        [observe(EndpointState.UNHEALTHY, 1, 1, "one replica died")],
    ),
    "failed": (
        [ONE],
        seen("DEPLOY_FAILED", 0, "no weights"),
        deployed(ONE),
        [observe(EndpointState.FAILED, None, 0, "no weights")],
    ),
    "a word of Serve that is unknown": (
        [ONE],
        seen("SINGING", 1, "la"),
        deployed(ONE),
        [observe(EndpointState.UNHEALTHY, None, 1, "la")],
    ),
    "this process has just started": (
        [ONE],
        seen(),
        {},
        [Deploy(wanted=ONE, mark=mark_of(ONE, KEYS)), observe(EndpointState.DEPLOYING, None, 1)],
    ),
    "deployed, but gone": (
        [ONE],
        {},
        deployed(ONE),
        [Deploy(wanted=ONE, mark=mark_of(ONE, KEYS)), observe(EndpointState.DEPLOYING, None, 0)],
    ),
    "no version, never ran": (
        [wanted(None, "no alias champion")],
        {},
        {},
        [observe(EndpointState.FAILED, None, 0, "no alias champion")],
    ),
    "no version any more, and goes on answering": (
        [wanted(None, "the store is away", version=version(1))],
        seen(replicas=2),
        deployed(ONE),
        [observe(EndpointState.READY, 1, 2, "the store is away")],
    ),
    "deleted and still there": ([wanted(None, deleted=True)], seen(), deployed(ONE), [Remove(name="e")]),
    "deleted and gone": ([wanted(None, deleted=True)], {}, deployed(ONE), [Forget(name="e")]),
    "unknown to the catalog": ([], seen(), {}, [Remove(name="e")]),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_decision_for_what_is_wanted_and_seen(case: str) -> None:
    entries, present, marks, expected = TABLE[case]
    assert reconcile(entries, present, marks, KEYS) == expected


@pytest.mark.parametrize(
    "changed",
    [wanted(2), wanted(1, revision=2)],
    ids=["the alias moved", "the specification changed"],
)
def test_a_change_rolls_the_endpoint_and_shows_the_old_version_until_the_new_answers(changed: Wanted) -> None:
    changed = Wanted(endpoint=changed.endpoint.model_copy(update={"version": version(1)}), version=changed.version)
    found = reconcile([changed], seen(), deployed(ONE), KEYS)
    looked = observe(EndpointState.DEPLOYING, 1, 1, revision=changed.endpoint.revision)
    assert found == [Deploy(wanted=changed, mark=mark_of(changed, KEYS)), looked]


def test_a_new_set_of_keys_is_deployed() -> None:
    found = reconcile([ONE], seen(), deployed(ONE), "keys-2")
    assert Deploy(wanted=ONE, mark=mark_of(ONE, "keys-2")) in found


def test_nothing_that_is_as_it_should_be_is_touched() -> None:
    entries = [
        Wanted(endpoint=Endpoint(name=name, spec=EndpointSpec(name=name, model="m")), version=version(1))
        for name in ("a", "b", "c")
    ]
    marks = {entry.endpoint.name: mark_of(entry, KEYS) for entry in entries}
    present = {name: Seen(status="RUNNING", replicas=1, message="") for name in marks}
    found = reconcile(entries, present, marks, KEYS)
    assert {type(action) for action in found} == {Observe}
    assert [action.name for action in found if isinstance(action, Observe)] == ["a", "b", "c"]


# -- stepped by hand -----------------------------------------------------------------


@dataclass
class Simulation:
    """Serve that takes two rounds to start what it is given, and the rows that the loop writes."""

    rows: dict[str, Endpoint] = field(default_factory=dict)
    aliases: dict[str, int | None] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    keys: str = KEYS
    deploys: int = 0

    def step(self) -> list[Action]:
        entries = [
            Wanted(endpoint=row, version=version(seq) if (seq := self.aliases[row.name]) and not row.deleted else None)
            for row in self.rows.values()
        ]
        present = {
            name: Seen(status="RUNNING" if age >= 2 else "DEPLOYING", replicas=int(age >= 2), message="")
            for name, age in self.running.items()
        }
        actions = reconcile(entries, present, self.marks, self.keys)
        self.running = {name: age + 1 for name, age in self.running.items()}
        for action in actions:
            self.act(action)
        return actions

    def act(self, action: Action) -> None:
        match action:
            case Deploy():
                self.deploys += 1
                name = action.wanted.endpoint.name
                self.running[name] = 0
                self.marks[name] = action.mark
            case Remove():
                self.running.pop(action.name)
                self.marks.pop(action.name, None)
            case Forget():
                self.rows.pop(action.name)
            case Observe():
                self.rows[action.name] = self.rows[action.name].model_copy(
                    update={"state": action.state, "version": action.version, "replicas": action.replicas}
                )

    def settle(self) -> int:
        """Step until only observations are left that change nothing; return the rounds."""
        for count in range(1, 20):
            before = dict(self.rows)
            actions = self.step()
            quiet = all(isinstance(action, Observe) for action in actions)
            started = all(age > 2 for age in self.running.values())
            if quiet and started and self.rows == before and set(self.running) == set(self.rows):
                return count
        raise AssertionError(f"it did not settle: {self.rows}")


def add(simulation: Simulation, name: str, seq: int | None) -> None:
    simulation.rows[name] = Endpoint(name=name, spec=EndpointSpec(name=name, model="m"))
    simulation.aliases[name] = seq


def test_the_life_of_endpoints_converges_step_by_step() -> None:
    simulation = Simulation()
    add(simulation, "a", 1)
    simulation.step()
    assert simulation.rows["a"].state is EndpointState.DEPLOYING
    simulation.settle()
    assert (simulation.rows["a"].state, simulation.rows["a"].version) == (EndpointState.READY, version(1))

    simulation.aliases["a"] = 2
    simulation.step()
    assert (simulation.rows["a"].state, simulation.rows["a"].version) == (EndpointState.DEPLOYING, version(1))
    simulation.settle()
    assert (simulation.rows["a"].state, simulation.rows["a"].version) == (EndpointState.READY, version(2))

    add(simulation, "b", 1)
    simulation.keys = "keys-2"
    simulation.settle()
    assert {row.state for row in simulation.rows.values()} == {EndpointState.READY}

    simulation.rows["a"] = simulation.rows["a"].model_copy(update={"deleted": True})
    simulation.settle()
    assert list(simulation.rows) == list(simulation.running) == ["b"]
    assert simulation.deploys == 4


def test_an_endpoint_whose_version_appears_later_comes_up_by_itself() -> None:
    simulation = Simulation()
    add(simulation, "a", None)
    simulation.step()
    assert simulation.rows["a"].state is EndpointState.FAILED
    simulation.aliases["a"] = 1
    simulation.settle()
    assert simulation.rows["a"].state is EndpointState.READY


def test_after_a_restart_of_the_control_application_it_settles_with_one_deploy_each() -> None:
    simulation = Simulation()
    add(simulation, "a", 1)
    add(simulation, "b", 1)
    simulation.settle()
    simulation.marks.clear()
    before = simulation.deploys
    simulation.settle()
    assert simulation.deploys - before == 2
    assert {row.state for row in simulation.rows.values()} == {EndpointState.READY}
