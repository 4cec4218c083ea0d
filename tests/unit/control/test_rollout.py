"""What becomes of candidates, step by step: the pure decision, and a control step with real stores in the loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lightmill.control.reconcile import Seen
from lightmill.control.traffic import GRACE_S, CandidateHost, Key, TrafficControl
from lightmill.control.traffic_service import TrafficService
from lightmill.errors import ConflictError, NotFoundError, UnavailableError
from lightmill.records.endpoints import EndpointState
from lightmill.records.masking import MaskingPolicy
from lightmill.records.references import AssetKind, VersionId, parse_reference
from lightmill.records.rollouts import TrafficPhase
from lightmill.records.signals import Distribution, ReplicaSignals, TargetCounts, TrafficSignals
from lightmill.records.specs import EndpointSpec, parse_spec
from lightmill.records.traffic import STABLE, TrafficPlan
from lightmill.serving.board import MemoryBoard
from lightmill.serving.traffic.counts import Counts
from lightmill.serving.traffic.following import PLANS
from tests.unit.registry.world import MODEL, World, seal, weights

P = TrafficPhase
CANARY = {"steps": [10, 50], "bake_s": 10, "min_requests": 100}


@dataclass
class Host(CandidateHost):
    """Serve that starts what it is given when the test says so; it can refuse, and lose its replicas."""

    apps: dict[Key, VersionId] = field(default_factory=dict)
    status: str = "RUNNING"
    message: str = ""
    refuses: bool = False
    removed: list[Key] = field(default_factory=list)
    deploys: int = 0

    def candidates(self) -> dict[Key, Seen]:
        replicas = int(self.status == "RUNNING")
        return {key: Seen(status=self.status, replicas=replicas, message=self.message) for key in self.apps}

    def deploy_candidate(self, spec: EndpointSpec, candidate: str, version: VersionId) -> None:
        if self.refuses:
            raise UnavailableError("no room")
        assert spec.traffic is None
        self.deploys += 1
        self.apps[(spec.name, candidate)] = version

    def remove_candidate(self, endpoint: str, candidate: str) -> None:
        self.removed.append((endpoint, candidate))
        self.apps.pop((endpoint, candidate), None)


class Site:
    """A real registry and catalog, an endpoint `e` on `m@champion`, and replicas that count what the test says."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        for start in range(3):
            draft = self.world.registry.begin(MODEL, "m")
            self.world.registry.commit(draft, seal(draft, weights(float(start))))
        self.world.registry.set_alias(MODEL, "m", "champion", 1)
        self.board, self.host = MemoryBoard(), Host()
        self.now = 1000.0
        self.counts: dict[str, tuple[int, int]] = {}
        self.woken = 0
        self.service = TrafficService(self.world.catalog, self.world.registry, self.replicas, self.wake)
        self.restart()

    def restart(self) -> None:
        """A new control process."""
        self.control = TrafficControl(
            self.world.catalog, self.world.registry, self.host, self.board, self.replicas, _policy,
            wall=lambda: self.now,
        )  # fmt: skip

    def wake(self) -> None:
        self.woken += 1

    def deploy(self, *candidates: dict[str, Any], model: str = "m@champion", **traffic: Any) -> None:
        value: dict[str, Any] = {"name": "e", "model": model}
        if candidates:
            value["traffic"] = {"candidates": candidates, **traffic}
        self.world.catalog.endpoints.put(parse_spec(EndpointSpec, value, "the test"))

    def follows(self) -> VersionId:
        spec = self.world.catalog.endpoints.get("e").spec
        return self.world.registry.resolve(MODEL, parse_reference(spec.model))

    def observed(self, state: EndpointState = EndpointState.READY) -> None:
        """The stable version's replicas have followed."""
        self.world.catalog.endpoints.observe("e", state=state, version=self.follows(), replicas=1, message="")

    def step(self, seconds: float = 0.0) -> bool:
        self.now += seconds
        return self.control.step({"e": self.follows()})

    def count(self, **counts: tuple[int, int]) -> None:
        """Replicas counted so many requests, and of them so many errors, since shares last changed."""
        self.counts = counts

    def replicas(self) -> list[ReplicaSignals]:
        plan = self.plan
        if plan is None:
            return []
        versions = {target.name: str(target.version.seq) for target in plan.targets}
        versions[STABLE] = str(self.world.catalog.endpoints.get("e").version.seq)  # pyright: ignore
        window = tuple(_counted(name, versions[name], *found) for name, found in self.counts.items())
        nothing = Distribution(bounds=(), counts=(0,), total=0.0)
        return [
            ReplicaSignals(
                endpoint="e", version=versions[STABLE], replica=replica, batches=nothing,
                traffic=TrafficSignals(generation=plan.generation, window=window),
            )
            for replica in ("r1", "r2")
        ]  # fmt: skip

    @property
    def plan(self) -> TrafficPlan | None:
        data = self.board.get(PLANS + "e")
        return TrafficPlan.model_validate_json(data) if data else None

    @property
    def percent(self) -> dict[str, float]:
        return {target.name: target.percent for target in self.plan.targets} if self.plan else {}

    @property
    def phase(self) -> TrafficPhase | None:
        return self.service.report("e").phase

    @property
    def reason(self) -> str:
        return self.service.report("e").reason

    @property
    def champion(self) -> int:
        return self.world.registry.aliases(MODEL, "m")["champion"]


def _counted(name: str, version: str, requests: int, errors: int) -> TargetCounts:
    found = Counts(name, version)
    for _ in range(errors):
        found.failed()
    for _ in range(requests - errors):
        found.answered(0.001)
    return found.record()


def _policy(reference: str) -> MaskingPolicy:
    rules = [{"detectors": ["all"], "action": "redact"}]
    return MaskingPolicy.model_validate({"name": reference, "version": 1, "rules": rules})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def canary(site: Site, model: str = "m@2", **limits: Any) -> None:
    site.deploy({"name": "next", "model": model, "canary": CANARY | limits})
    site.observed()


def test_a_canary_goes_through_its_steps_and_the_alias_moves(site: Site) -> None:
    canary(site)
    site.host.status = "DEPLOYING"
    assert site.step() and site.phase is P.STARTING and site.percent == {}
    site.host.status = "RUNNING"
    site.step()
    assert site.phase is P.RUNNING and site.percent == {"next": 10.0}
    site.count(next=(40, 0), stable=(400, 0))
    site.step(11)
    assert site.percent == {"next": 10.0}  # 80 of 100 requests
    site.count(next=(60, 0), stable=(400, 0))
    site.step()
    assert site.percent == {"next": 50.0}
    site.step(9)
    assert site.phase is P.RUNNING and site.champion == 1
    site.step(2)
    assert site.phase is P.PROMOTING and site.champion == 2
    assert site.percent == {"next": 50.0}  # until the stable version's replicas have followed
    site.step(5)
    assert site.percent == {"next": 50.0} and site.host.removed == []
    site.observed()
    site.step()
    assert site.phase is P.PROMOTED and site.percent == {} and site.host.removed == []
    site.step(GRACE_S)
    assert site.host.removed == [("e", "next")] and site.host.apps == {}
    assert not site.step(1) and site.phase is P.PROMOTED and site.host.deploys == 1
    (moved,) = [move for move in site.world.registry.alias_history(MODEL, "m", "champion") if move.target == 2]
    assert moved.source == 1
    assert [event.phase for event in site.service.report("e").events] == [
        P.STARTING, P.RUNNING, P.RUNNING, P.PROMOTING, P.PROMOTED,
    ]  # fmt: skip


def test_a_breach_ends_it_at_once_and_its_replicas_go_after_the_plan_is_known(site: Site) -> None:
    canary(site)
    site.step()
    site.step()
    site.count(next=(60, 20), stable=(400, 0))
    site.step(1)
    assert site.phase is P.ROLLED_BACK and "33.33%" in site.reason and site.percent == {} and site.champion == 1
    assert site.host.apps
    site.step(GRACE_S)
    assert not site.host.apps
    site.step(100)
    assert site.phase is P.ROLLED_BACK and site.host.deploys == 1  # it does not begin again by itself
    canary(site, max_error_rate=0.5, max_error_increase=1)
    site.step()
    assert site.phase is P.STARTING  # another specification is another attempt


def test_it_survives_a_restart_of_the_control_process(site: Site) -> None:
    canary(site)
    site.step()
    site.step()
    site.count(next=(60, 0), stable=(400, 0))
    site.step(11)
    before = site.plan
    site.restart()
    site.step(5)
    assert site.plan == before and site.phase is P.RUNNING
    site.step(6)
    assert site.phase is P.PROMOTING


def test_a_restart_between_moving_the_alias_and_writing_it_down_ends_well(site: Site) -> None:
    canary(site, on_success="promote", steps=[100])
    site.step()
    site.step()
    site.count(next=(60, 0))
    site.world.registry.set_alias(MODEL, "m", "champion", 2)  # what the process did before it died
    site.restart()
    site.step(11)
    assert site.phase is P.PROMOTING
    site.observed()
    site.step()
    assert site.phase is P.PROMOTED and site.champion == 2


def test_the_board_is_written_again_when_it_was_lost(site: Site) -> None:
    canary(site)
    site.step()
    site.step()
    site.board.delete(PLANS + "e")
    site.step()
    assert site.percent == {"next": 10.0}


@pytest.mark.parametrize("refuses", [True, False])
def test_one_that_does_not_start_is_rolled_back_with_the_reason(site: Site, refuses: bool) -> None:
    site.host.refuses, site.host.status, site.host.message = refuses, "DEPLOY_FAILED", "no weights"
    canary(site)
    site.step()
    site.step()
    assert site.phase is P.ROLLED_BACK and ("no room" if refuses else "no weights") in site.reason


def test_one_that_holds_waits_for_people_and_is_still_judged(site: Site) -> None:
    canary(site, on_success="hold", steps=[20])
    site.step()
    site.step()
    site.count(next=(60, 0), stable=(400, 0))
    site.step(11)
    assert site.phase is P.HOLDING and site.percent == {"next": 20.0} and site.champion == 1
    site.step(1000)
    assert site.phase is P.HOLDING
    site.count(next=(60, 30))
    site.step()
    assert site.phase is P.ROLLED_BACK


def test_people_promote_and_roll_back(site: Site) -> None:
    canary(site, on_success="hold")
    site.step()
    site.step()
    site.service.promote("e")
    assert site.woken == 1 and site.champion == 1  # the loop does it
    site.step()
    assert site.champion == 2 and site.phase is P.PROMOTING
    site.observed()
    site.step()
    assert site.phase is P.PROMOTED
    with pytest.raises(ConflictError, match="already"):
        site.service.promote("e")
    site.service.roll_back("e")
    assert site.champion == 1
    site.step()
    assert site.phase is P.ROLLED_BACK and "m@1" in site.reason


def test_a_canary_under_way_is_rolled_back_by_hand_without_touching_the_alias(site: Site) -> None:
    canary(site)
    site.step()
    site.step()
    site.service.roll_back("e")
    site.step()
    assert site.phase is P.ROLLED_BACK and site.champion == 1 and "by hand" in site.reason
    assert len(site.world.registry.alias_history(MODEL, "m", "champion")) == 1


def test_the_alias_that_somebody_moves_begins_the_step_anew_or_ends_it(site: Site) -> None:
    canary(site)
    site.step()
    site.step()
    generation = site.plan.generation  # pyright: ignore[reportOptionalMemberAccess]
    site.world.registry.set_alias(MODEL, "m", "champion", 3)
    site.observed()
    site.step(1)
    assert site.phase is P.RUNNING and site.plan and site.plan.generation == generation + 1
    site.world.registry.set_alias(MODEL, "m", "champion", 2)
    site.observed()
    site.step(1)
    assert site.phase is P.PROMOTED and site.percent == {}


def test_an_alias_that_moves_at_the_same_moment_is_not_overwritten(site: Site) -> None:
    canary(site, steps=[50])
    site.step()
    site.step()
    site.count(next=(60, 0), stable=(100, 0))
    before = site.follows()
    site.world.registry.set_alias(MODEL, "m", "champion", 3)
    site.now += 11
    site.control.step({"e": before})
    assert site.champion == 3 and site.phase is P.HOLDING and "could not be promoted" in site.reason


def test_a_candidate_that_follows_latest_begins_with_each_new_version(site: Site) -> None:
    site.world.registry.set_alias(MODEL, "m", "champion", 3)
    canary(site, model="m@latest")
    site.step()
    assert site.phase is P.PROMOTED and site.host.deploys == 0
    draft = site.world.registry.begin(MODEL, "m")
    site.world.registry.commit(draft, seal(draft, weights(9.0)))
    site.step()
    assert site.phase is P.STARTING and site.host.apps[("e", "next")].seq == 4


def test_weights_and_shadows_are_kept_as_specified_and_go_with_the_specification(site: Site) -> None:
    site.deploy(
        {"name": "a", "model": "m@2", "weight": 20},
        {"name": "b", "model": "m@3", "shadow": 0.5},
        sticky="key", differences={"masking": "staff"},
    )  # fmt: skip
    site.observed()
    site.step()
    site.step()
    plan = site.plan
    assert plan is not None and site.phase is P.SERVING and plan.masking and plan.sticky.by == "key"
    assert [(t.name, t.percent, t.shadow) for t in plan.targets] == [("a", 20.0, 0.0), ("b", 0.0, 0.5)]
    with pytest.raises(ConflictError, match="Say which"):
        site.service.promote("e")
    with pytest.raises(NotFoundError, match="a, b"):
        site.service.promote("e", "c")
    site.host.status = "UNHEALTHY"
    site.step()
    assert site.plan is None  # no replicas, no share
    site.host.status = "RUNNING"
    site.step()
    site.service.promote("e", "a")
    site.step()
    site.observed()
    site.step()
    assert site.champion == 2 and site.percent == {"b": 0.0}
    site.deploy()
    site.step()
    site.step(GRACE_S)
    assert site.plan is None and site.host.apps == {} and site.world.catalog.traffic.all() == {}
    assert not site.step()


def test_an_endpoint_that_is_deleted_takes_its_candidates_along(site: Site) -> None:
    canary(site)
    site.step()
    site.step()
    site.world.catalog.endpoints.delete("e")
    site.control.step({})
    site.now += GRACE_S
    site.control.step({})
    assert site.plan is None and site.host.removed == [("e", "next")]


def test_candidates_that_nobody_knows_are_removed_after_a_restart(site: Site) -> None:
    site.host.apps[("old", "next")] = VersionId(kind=AssetKind.MODEL, name="m", seq=1, digest="0" * 64)
    site.control.step({})
    site.now += GRACE_S
    site.control.step({})
    assert site.host.apps == {}


def test_the_report_says_who_does_what_and_how_well(site: Site) -> None:
    canary(site)
    site.step()
    site.step()
    site.count(next=(30, 3), stable=(400, 0))
    report = site.service.report("e")
    stable, following = report.rows
    assert (stable.role, stable.percent, stable.requests, stable.version) == (STABLE, 90.0, 800, site.follows())
    assert (following.role, following.percent, following.requests, following.state) == ("canary", 10.0, 60, "running")
    assert following.error_rate == 0.1 and following.p99_ms == pytest.approx(1.0, rel=0.4)
    assert (report.step, report.steps, report.phase) == (0, (10.0, 50.0), P.RUNNING)
    assert site.service.shadows("e", 10) == []


def test_an_endpoint_without_candidates_has_a_report_and_nothing_to_promote(site: Site) -> None:
    site.deploy()
    site.observed()
    assert not site.step()
    (row,) = site.service.report("e").rows
    assert (row.role, row.percent, row.state) == (STABLE, 100.0, "ready")
    with pytest.raises(ConflictError, match="no candidates"):
        site.service.promote("e")
    with pytest.raises(NotFoundError):
        site.service.report("nothing")
    site.deploy(model="m@1")
    with pytest.raises(ConflictError, match="no alias"):
        site.service.roll_back("e")
