"""What a collector decides, step by step on a clock of its own, and what it then does."""

from __future__ import annotations

import pytest

from lightmill.errors import ConflictError, IntegrityError, UnavailableError
from lightmill.records.care import CollectReport
from lightmill.registry.care import Collector, verify_reused
from lightmill.registry.care.marks import Decision, Mark, Sight, decide
from lightmill.registry.names import mark_name, quarantine_name, record_name
from lightmill.storage import BlobStore
from tests.attacks.stage import Clock, Hooked
from tests.unit.registry.care.site import Site
from tests.unit.registry.world import MODEL, publish, read, seal, weights

BLOB = "b/aa/one"


class Steps:
    """Cycles of the pure decision."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.mark: Mark | None = None

    def see(
        self, *garbage: str, leases: dict[str, str | None] | None = None, renewals: int = 0, **named: str
    ) -> Decision:
        found = {name: frozenset[str]() for name in garbage} | {n: frozenset({a}) for n, a in named.items()}
        sight = Sight(
            now=self.clock(),
            garbage=found,
            leases=leases or {},
            quarantine=frozenset(),
            renewals=dict.fromkeys(leases or {}, renewals),
        )
        decision = decide(self.mark, sight)
        self.mark = decision.mark
        return decision


def test_an_object_goes_after_a_day_and_a_second_look() -> None:
    steps = Steps()
    assert steps.see(BLOB).young == (BLOB,)
    steps.clock.pass_hours(23)
    assert steps.see(BLOB).young == (BLOB,)
    steps.clock.pass_hours(1)
    assert steps.see(BLOB).waiting == (BLOB,)
    steps.clock.pass_hours(3.9)
    assert steps.see(BLOB).waiting == (BLOB,)
    steps.clock.pass_hours(0.1)
    assert steps.see(BLOB).remove == (BLOB,)
    assert steps.mark is not None and steps.mark.objects == {}
    assert steps.mark.quarantine == {BLOB: steps.clock()}


def test_an_object_that_was_needed_in_between_is_young_again() -> None:
    steps = Steps()
    steps.see(BLOB)
    steps.clock.pass_hours(25)
    steps.see()
    assert steps.see(BLOB).young == (BLOB,)


def test_a_lease_keeps_what_came_after_it_and_not_what_was_there_before() -> None:
    steps = Steps()
    steps.see("b/aa/old")
    decision = steps.see("b/aa/old", "b/aa/new", leases={"p": "asset"})
    assert decision.leased == ("b/aa/new",)


def test_a_lease_keeps_what_deleted_versions_of_its_asset_name() -> None:
    steps = Steps()
    steps.see(**{"mine": "asset", "yours": "another"})
    decision = steps.see(leases={"p": "asset"}, mine="asset", yours="another")
    assert decision.leased == ("mine",) and decision.young == ("yours",)


def test_a_lease_of_an_unknown_asset_keeps_what_any_deleted_version_names() -> None:
    steps = Steps()
    steps.see(mine="asset")
    assert steps.see(leases={"p": None}, mine="asset").leased == ("mine",)


def test_a_lease_expires_as_an_object_does_and_then_its_objects_wait_their_turn() -> None:
    steps = Steps()
    steps.see(BLOB, leases={"p": "asset"})
    steps.clock.pass_hours(24)
    assert steps.see(BLOB, leases={"p": "asset"}).leased == (BLOB,)
    steps.clock.pass_hours(4)
    decision = steps.see(BLOB, leases={"p": "asset"})
    assert decision.expire == ("p",) and decision.waiting == (BLOB,)
    steps.clock.pass_hours(4)
    assert steps.see(BLOB).remove == (BLOB,)


def test_a_lease_that_is_renewed_keeps_its_objects_as_long_as_the_work_takes() -> None:
    steps = Steps()
    steps.see(BLOB, leases={"p": "asset"})
    for renewals in range(1, 9):
        steps.clock.pass_hours(20)
        decision = steps.see(BLOB, leases={"p": "asset"}, renewals=renewals)
        assert decision.leased == (BLOB,) and not decision.expire
    steps.clock.pass_hours(24)
    assert not steps.see(BLOB, leases={"p": "asset"}, renewals=8).expire
    steps.clock.pass_hours(4)
    assert steps.see(BLOB, leases={"p": "asset"}, renewals=8).expire == ("p",)


def test_a_mark_from_the_future_stops_the_collector() -> None:
    steps = Steps()
    steps.clock.pass_hours(1)
    steps.see(BLOB)
    steps.clock.pass_hours(-1)
    with pytest.raises(UnavailableError, match="clocks differ"):
        steps.see(BLOB)


def test_quarantine_lasts_a_week() -> None:
    clock = Clock()
    mark = Mark(n=4, created=clock(), quarantine={BLOB: clock()})

    def sight() -> Sight:
        return Sight(now=clock(), garbage={}, leases={}, quarantine=frozenset({BLOB}))

    clock.pass_hours(24 * 7 - 1)
    assert decide(mark, sight()).purge == ()
    clock.pass_hours(1)
    assert decide(mark, sight()).purge == (BLOB,)


# -- on a store ---------------------------------------------------------------------------


class Cycles:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.clock = Clock()

    def collect(
        self, hours: float = 0, *, apply: bool = True, store: BlobStore | None = None, **o: object
    ) -> CollectReport:
        self.clock.pass_hours(hours)
        collector = Collector(store or self.site.store, self.site.ring.trusted, clock=self.clock, threads=2, **o)  # pyright: ignore
        return collector.collect(apply=apply)

    def ripen(self) -> None:
        """Two cycles; the next one, 4 h later, removes."""
        self.collect()
        self.collect(25)


@pytest.fixture
def cycles(site: Site) -> Cycles:
    return Cycles(site)


def test_a_deleted_version_goes_to_quarantine_and_then_for_good(site: Site, cycles: Cycles) -> None:
    blobs = set(site.blobs_of(site.ids[1]))
    before = set(site.names())
    site.delete(site.ids[1])
    cycles.ripen()
    report = cycles.collect(5)
    assert blobs < set(report.removed) and len(report.removed) == 2 and report.removed_bytes > 0
    assert not set(report.removed) & set(site.names())
    assert {quarantine_name(name) for name in report.removed} <= set(site.names())
    assert cycles.collect(24 * 6).purged == ()
    assert set(cycles.collect(25).purged) == set(report.removed)
    assert not site.names("q/")
    gone = before - set(site.names())
    assert gone == set(report.removed), "nothing else is touched"
    for id in (site.ids[0], site.ids[2], site.other):
        read(site.registry, id)
    assert site.check(deep=True).harmful == ()


def test_a_dry_run_writes_nothing_and_says_what_would_go(site: Site, cycles: Cycles) -> None:
    site.delete(site.ids[1])
    cycles.ripen()
    before = {name: site.store.get(name) for name in site.names()}
    report = cycles.collect(5, apply=False)
    assert len(report.removed) == 2 and report.removed_bytes and not report.applied
    assert {name: site.store.get(name) for name in site.names()} == before


def test_a_dead_publisher_s_lease_and_blobs_go(site: Site, cycles: Cycles) -> None:
    site.registry.begin(MODEL, "m").seal_files({"a": b"never committed"})
    cycles.ripen()
    assert len(cycles.collect(5).expired) == 1
    assert len(cycles.collect(5).removed) == 1
    assert not site.names("l/")


def test_a_publisher_at_work_loses_nothing(site: Site, cycles: Cycles) -> None:
    draft = site.registry.begin(MODEL, "m")
    content = seal(draft, weights(5))
    for hours in (0, 1, 5, 5, 5, 5):
        assert cycles.collect(hours).removed == ()
    id = site.registry.commit(draft, content).id
    for hours in (1, 25, 25, 25):
        assert cycles.collect(hours).removed == ()
    read(site.registry, id)


def test_a_publisher_that_works_for_days_renews_its_lease_and_loses_nothing(site: Site, cycles: Cycles) -> None:
    draft = site.registry.begin(MODEL, "m")
    content = seal(draft, weights(5))
    for hours in (0, 20, 20, 20, 20):
        draft.renew()
        report = cycles.collect(hours)
        assert report.removed == () and report.expired == ()
    assert len(site.names("lr/")) == 5
    id = site.registry.commit(draft, content).id
    assert not site.names("l/") and not site.names("lr/")
    read(site.registry, id)


def test_renewals_of_a_dead_publisher_go_with_its_lease(site: Site, cycles: Cycles) -> None:
    draft = site.registry.begin(MODEL, "m")
    draft.renew()
    cycles.ripen()
    assert len(cycles.collect(5).expired) == 1
    assert not site.names("l/") and not site.names("lr/")


def test_what_an_endpoint_serves_stays_although_it_was_deleted(site: Site, cycles: Cycles) -> None:
    blobs = site.blobs_of(site.ids[1])
    site.delete(site.ids[1])
    pinned = frozenset({site.ids[1].digest})
    for hours in (0, 25, 25, 25):
        assert cycles.collect(hours, pinned=pinned).garbage == 0
    assert blobs and all(site.store.head(blob) for blob in blobs)


def test_a_tombstone_of_a_stranger_deletes_nothing(site: Site, cycles: Cycles) -> None:
    from lightmill.vault import KeyRing

    ours, site.ring = site.ring, KeyRing.create(site.folder / "stranger.json")
    site.registry, registry = site.new_registry(ring=ours), site.registry
    site.delete(site.ids[1])
    site.ring, site.registry = ours, registry
    for hours in (0, 25, 25):
        assert cycles.collect(hours).garbage == 0


@pytest.mark.parametrize("number", [1, 2])
def test_nothing_goes_while_a_record_is_missing_or_damaged(site: Site, cycles: Cycles, number: int) -> None:
    site.delete(site.ids[2])
    cycles.ripen()
    path = site.path(record_name(site.mid, number))
    good = path.read_bytes()
    for bad in (b"", good[:-1], good.replace(b"payload", b"paxload", 1), None):
        path.unlink() if bad is None else path.write_bytes(bad)
        with pytest.raises(IntegrityError, match="not known"):
            cycles.collect(5)
    path.write_bytes(good)
    assert cycles.collect(5).removed


def test_a_rewritten_record_does_not_make_blobs_unneeded(site: Site, cycles: Cycles) -> None:
    """An attacker with the store, without a key, gives version 1 the blobs of version 2."""
    import json

    from lightmill.vault import canonical_json, decode_base64, encode_base64

    path = site.path(record_name(site.mid, 1))
    signed = json.loads(path.read_bytes())
    payload = json.loads(decode_base64(signed["payload"]))
    payload["blobs"] = []
    path.write_bytes(canonical_json(signed | {"payload": encode_base64(canonical_json(payload))}))
    with pytest.raises(IntegrityError):
        cycles.collect()


def test_of_two_collectors_at_once_one_gives_way(site: Site, cycles: Cycles) -> None:
    seen = []

    def hook(method: str, name: str) -> None:
        if method == "create" and name.startswith("g/") and not seen:
            seen.append(cycles.collect())

    with pytest.raises(ConflictError, match="same moment"):
        cycles.collect(store=Hooked(site.store, hook))


def test_a_version_that_comes_back_right_before_the_deletion_keeps_its_objects(site: Site, cycles: Cycles) -> None:
    """Reused blobs of a deleted version, committed at the worst moments: all is there at the end."""
    content, name = reusable(site)
    for moment in ("before", "after"):
        draft = site.registry.begin(MODEL, "m")
        draft.release()  # not even a lease protects it
        cycles.ripen()
        done = []

        def hook(method: str, of: str, moment: str = moment, draft: object = draft, done: list = done) -> None:
            first = (method, of) == (("create", quarantine_name(name)) if moment == "before" else ("delete", name))
            if first and not done:
                done.append(site.registry.commit(draft, content).id)  # pyright: ignore

        report = cycles.collect(5, store=Hooked(site.store, hook))
        assert done and name not in report.removed
        assert (name in report.restored) is (moment == "after")
        read(site.registry, done[0])
        site.delete(done[0])
        for hours in (0, 1):
            cycles.collect(hours)


def reusable(site: Site):
    """The content of version 2, which is then deleted, and the name of its blob."""
    from lightmill.registry import Content

    manifest = site.registry.open(site.ids[1]).manifest
    content = Content(
        files=manifest.files,
        tensors=manifest.tensors,
        safetensors_header=manifest.safetensors_header,
        blobs=manifest.blobs,
        model=manifest.model,
    )
    name = site.blobs_of(site.ids[1])[0]
    site.delete(site.ids[1])
    return content, name


def test_a_publisher_that_reuses_what_is_in_quarantine_gets_it_back(site: Site, cycles: Cycles) -> None:
    content, name = reusable(site)
    cycles.ripen()
    assert name in cycles.collect(5).removed
    draft = site.registry.begin(MODEL, "m")
    id = site.registry.commit(draft, content).id
    assert verify_reused(site.store, [blob.id for blob in content.blobs]) == []
    read(site.registry, id)
    site.store.delete(name)
    assert name in cycles.collect(1).restored, "the next collection would have done it too"
    assert verify_reused(site.store, ["ab" * 32]) == ["ab" * 32]


def test_a_damaged_mark_makes_every_age_begin_anew(site: Site, cycles: Cycles) -> None:
    site.delete(site.ids[1])
    cycles.ripen()
    last = max(site.names("g/"))
    site.path(last).write_bytes(b"{}")
    report = cycles.collect(5)
    assert report.removed == () and report.young == 2
    assert max(site.names("g/")) == mark_name(report.mark) > last


def test_few_marks_are_kept(site: Site, cycles: Cycles) -> None:
    for _ in range(6):
        cycles.collect(1)
    assert site.names("g/") == [mark_name(n) for n in (4, 5, 6)]


def test_a_publish_after_a_collection_goes_on(site: Site, cycles: Cycles) -> None:
    site.delete(site.ids[2])
    cycles.ripen()
    cycles.collect(5)
    assert publish(site.registry).id.seq == 4
