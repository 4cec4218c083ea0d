"""A copy holds what it names, at every moment; a site comes back from it as it was."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path

import pytest
import torch

from lightmill.catalog import Catalog
from lightmill.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError
from lightmill.records.care import Problem
from lightmill.registry import Registry
from lightmill.registry.care import Collector, backup, rebuild, repair, restore
from lightmill.registry.names import alias_name, envelope_name, record_name
from lightmill.storage import LocalStore, MemoryStore
from lightmill.vault import KeyRing
from tests.attacks.stage import Clock, Hooked
from tests.unit.registry.care.site import Site, damage, rows
from tests.unit.registry.world import MODEL, publish, read, weights


@pytest.fixture
def target(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "copy", fsync=lambda _: None)


def objects(store: LocalStore | MemoryStore) -> dict[str, bytes]:
    return {name: store.get(name) for name in store.list("")}


def test_a_copy_has_every_object_and_opens(site: Site, target: LocalStore) -> None:
    report = backup(site.store, target, site.ring.trusted)
    assert objects(target) == objects(site.store)
    assert (report.versions, report.findings) == (4, ())
    assert report.copied == report.verified == len(objects(target)) - 1  # the store's own file is not counted
    registry = site.new_registry(store=target)
    for n, id in enumerate(site.ids):
        assert torch.equal(read(registry, id)["weight"], weights(n)["weight"])


def test_a_second_run_copies_only_what_is_new(site: Site, target: LocalStore) -> None:
    backup(site.store, target, site.ring.trusted)
    assert backup(site.store, target, site.ring.trusted).copied == 0
    publish(site.registry, state=weights(7))
    site.registry.set_alias(MODEL, "m", "champion", 4)
    report = backup(site.store, target, site.ring.trusted)
    assert report.copied == 5, "a blob, a manifest, an envelope, a record and a move"
    assert objects(target) == objects(site.store)


def test_leases_marks_and_quarantine_stay_behind(site: Site, target: LocalStore) -> None:
    site.registry.begin(MODEL, "m").seal_files({"a": b"unfinished"})
    clock = Clock()
    site.delete(site.ids[0])
    for hours in (0, 25, 25):
        clock.pass_hours(hours)
        Collector(site.store, site.ring.trusted, clock=clock).collect(apply=True)
    backup(site.store, target, site.ring.trusted)
    assert {name[:2] for name in target.list("")} == {"b/", "li", "m/", "r/"}
    assert site.check(target, deep=True).findings == ()
    assert site.check(target).deleted == 1


def test_a_copy_made_while_four_threads_publish_is_whole(site: Site, target: LocalStore) -> None:
    stop, published = threading.Event(), []

    def work(number: int) -> None:
        registry = site.new_registry()
        n = 0
        while not stop.is_set():
            id = publish(registry, f"m{number % 2}", state=weights(n)).id
            registry.set_alias(MODEL, id.name, f"a{number}", id.seq)
            published.append(id)
            n += 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    reports = [backup(site.store, target, site.ring.trusted) for _ in range(2)]
    stop.set()
    for thread in threads:
        thread.join()
    assert all(report.findings == () for report in reports)
    check = site.check(target, deep=True)
    assert check.findings == () and check.versions >= reports[-1].versions
    there = 0
    for id in published:
        if record_name(site.registry.mid(id.kind, id.name), id.seq) in set(target.list("r/")):
            read(site.new_registry(store=target), id)
            there += 1
    print(f"\n{len(published)} versions published during 2 backups, {there} in the copy, all whole")


def test_what_is_published_at_the_worst_moments_is_whole_or_absent(site: Site, target: LocalStore) -> None:
    moments = 0
    for moment in range(1, 60, 5):
        calls, copy = 0, MemoryStore()

        def hook(method: str, name: str, moment: int = moment) -> None:
            nonlocal calls, moments
            calls += 1
            if calls == moment:
                id = publish(site.registry, state=weights(moment)).id
                site.registry.set_alias(MODEL, "m", "champion", id.seq)
                moments += 1

        assert backup(Hooked(site.store, hook), copy, site.ring.trusted, threads=1).findings == ()
        assert site.check(copy, deep=True).findings == ()
    assert moments >= 8


def test_a_rotation_during_a_backup_leaves_an_envelope_in_the_copy(site: Site) -> None:
    from lightmill.vault import rewrap_envelope

    old, new = (envelope_name(site.mid, 1, rot) for rot in (0, 1))
    context = {"store": site.store_id, "workspace": "default", "mid": site.mid, "seq": "1"}
    done = []

    def hook(method: str, name: str) -> None:
        if (method, name) == ("get", old) and not done:
            done.append(name)
            data, _ = rewrap_envelope(site.store.get(old), site.ring.provider, context)
            site.store.create(new, data)
            site.store.delete(old)

    copy = MemoryStore()
    assert backup(Hooked(site.store, hook), copy, site.ring.trusted, threads=1).findings == ()
    assert done and list(copy.list(old[:-6])) == [new]


class Full:
    """An fsync that finds the disk full at the n-th call."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.calls = 0

    def __call__(self, descriptor: int) -> None:
        self.calls += 1
        if self.calls >= self.n:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_stops_a_backup_and_the_next_run_goes_on(site: Site, tmp_path: Path) -> None:
    stops = 0
    for n in range(1, 80, 6):
        root = tmp_path / f"copy{n}"
        try:
            backup(site.store, LocalStore(root, fsync=Full(n)), site.ring.trusted, threads=2)
        except UnavailableError as exc:
            stops += 1
            assert "free some space" in exc.message
        copy = LocalStore(root, fsync=lambda _: None)
        if list(copy.list("lightmill.json")):
            assert site.check(copy, deep=True).harmful == ()
        assert backup(site.store, copy, site.ring.trusted).findings == ()
        assert objects(copy) == objects(site.store)
    print(f"\nthe disk was full at {stops} moments of a backup; each went on and ended whole")
    assert stops >= 8


def test_a_full_disk_stops_a_publish_and_nothing_is_torn(site: Site) -> None:
    stops = 0
    for n in range(1, 300, 3):
        store = LocalStore(site.root, fsync=Full(n))
        latest = site.registry.latest(MODEL, "m")
        try:
            publish(site.new_registry(store=store), state=weights(n))
        except UnavailableError as exc:
            stops += 1
            assert "free some space" in exc.message
            assert site.registry.latest(MODEL, "m") in (latest, latest + 1)
        else:
            break
    assert site.check(deep=True).harmful == ()
    for seq in range(1, site.registry.latest(MODEL, "m") + 1):
        read(site.registry, site.resolve(f"m@{seq}"))
    print(f"\nthe disk was full at {stops} moments of a publish; every version that is there is whole")
    assert 8 <= stops < 99


def test_damage_in_the_source_is_named_and_does_not_spread(site: Site, target: LocalStore) -> None:
    (blob,) = site.blobs_of(site.ids[1])
    good = site.path(blob).read_bytes()
    site.path(blob).write_bytes(good[:-1])
    (finding,) = backup(site.store, target, site.ring.trusted).findings
    assert (finding.problem, finding.object, finding.versions) == (Problem.DAMAGED, blob, (f"{site.mid}@2",))
    assert blob not in set(target.list("b/"))
    site.path(blob).write_bytes(good)
    assert backup(site.store, target, site.ring.trusted).findings == ()
    assert objects(target) == objects(site.store)


def test_a_damaged_record_ends_the_copy_of_its_asset_only(site: Site, target: LocalStore) -> None:
    site.path(record_name(site.mid, 2)).write_bytes(b"{}")
    report = backup(site.store, target, site.ring.trusted)
    assert [finding.object for finding in report.findings] == [record_name(site.mid, 2)]
    there = set(target.list("r/"))
    assert record_name(site.mid, 1) in there and record_name(site.mid, 3) not in there
    read(site.new_registry(store=target), site.other)


def test_verify_all_finds_and_replaces_what_decayed_in_the_copy(site: Site, target: LocalStore) -> None:
    backup(site.store, target, site.ring.trusted)
    (blob,) = site.blobs_of(site.ids[0])
    target.path(blob).write_bytes(b"decayed")
    assert backup(site.store, target, site.ring.trusted).replaced == 0
    report = backup(site.store, target, site.ring.trusted, verify_all=True)
    assert report.replaced == 1 and report.findings == ()
    assert objects(target) == objects(site.store)
    target.path(record_name(site.mid, 1)).write_bytes(b"decayed")
    (finding,) = backup(site.store, target, site.ring.trusted, verify_all=True).findings
    assert finding.object == record_name(site.mid, 1)


def test_another_store_s_copy_and_a_full_folder_are_refused(site: Site, target: LocalStore, tmp_path: Path) -> None:
    another = Site(tmp_path / "another")
    backup(another.store, target, another.ring.trusted)
    before = objects(target)
    with pytest.raises(ConflictError, match="holds store"):
        backup(site.store, target, site.ring.trusted)
    assert objects(target) == before
    folder = LocalStore(tmp_path / "folder")
    folder.create("letter.txt", b"dear")
    with pytest.raises(ConflictError, match="not empty"):
        backup(site.store, folder, site.ring.trusted)
    assert list(folder.list("")) == ["letter.txt"]


def test_yesterday_s_store_is_not_copied_over_today_s_backup(site: Site, target: LocalStore) -> None:
    yesterday = site.copy_of_store("yesterday")
    publish(site.registry)
    backup(site.store, target, site.ring.trusted)
    with pytest.raises(IntegrityError, match="rolled back"):
        backup(yesterday, target, site.ring.trusted)
    publish(site.new_registry(store=yesterday), state=weights(77))
    with pytest.raises(IntegrityError, match="rewritten"):
        backup(yesterday, target, site.ring.trusted)


def test_a_target_that_returns_other_bytes_is_refused(site: Site) -> None:
    class Liar(MemoryStore):
        def get(self, name: str) -> bytes:
            data = super().get(name)
            return data[:-1] + b"?" if name.startswith("b/") else data

    with pytest.raises(IntegrityError, match="other bytes"):
        backup(site.store, Liar(), site.ring.trusted)


# -- restoring ---------------------------------------------------------------------------------


def test_a_site_comes_back_with_equal_digests_tensors_and_rows(site: Site, target: LocalStore, tmp_path: Path) -> None:
    before = rows(site.catalog)
    resolved = {text: site.resolve(text) for text in ("m@latest", "m@champion", "m@2", "other@candidate")}
    backup(site.store, target, site.ring.trusted)
    new = LocalStore(tmp_path / "new" / "store", fsync=lambda _: None)
    with Catalog.open(f"sqlite:///{tmp_path / 'new.db'}") as catalog:
        report = restore(target, new, site.ring, "default", catalog)
        assert report.check.harmful == () and report.check.deep and report.rebuilt.unreadable == ()
        assert (report.rebuilt.assets, report.rebuilt.versions, report.rebuilt.aliases) == (2, 4, 2)
        assert rows(catalog) == before
        registry = Registry(new, site.ring, "default", site.store_id, catalog)
        site.registry = registry
        assert {text: site.resolve(text) for text in resolved} == resolved
        for n, id in enumerate(site.ids):
            found = read(registry, id)
            assert all(torch.equal(found[name], value) for name, value in weights(n).items())
        assert publish(registry).id.seq == 4, "and work goes on"
    assert objects(target).items() < objects(new).items()


def test_a_restore_fills_the_gaps_of_the_same_store_only(site: Site, target: LocalStore, tmp_path: Path) -> None:
    backup(site.store, target, site.ring.trusted)
    new = publish(site.registry, state=weights(50)).id
    whole = objects(site.store)
    for name in (*site.blobs_of(site.ids[0]), record_name(site.mid, 2), alias_name(site.mid, "champion", 1)):
        site.store.delete(name)
    report = restore(target, site.store, site.ring, "default", site.catalog)
    assert report.check.harmful == () and report.copy_report.copied == 3
    assert objects(site.store) == whole
    read(site.registry, new)
    another = Site(tmp_path / "another")
    with pytest.raises(ConflictError, match="holds store"):
        restore(target, another.store, site.ring, "default", site.catalog)


def test_a_restore_needs_the_right_key_ring_before_anything_is_written(
    site: Site, target: LocalStore, tmp_path: Path
) -> None:
    backup(site.store, target, site.ring.trusted)
    new = LocalStore(tmp_path / "new")
    with pytest.raises(IntegrityError, match="key ring"):
        restore(target, new, KeyRing.create(tmp_path / "wrong.json"), "default", site.new_catalog())
    assert list(new.list("")) == []
    with pytest.raises(NotFoundError):
        restore(LocalStore(tmp_path / "nothing"), new, site.ring, "default", site.new_catalog("c2.db"))


def test_a_kept_catalog_tells_that_the_backup_was_older(site: Site, target: LocalStore, tmp_path: Path) -> None:
    backup(site.store, target, site.ring.trusted)
    publish(site.registry)
    report = restore(target, LocalStore(tmp_path / "new"), site.ring, "default", site.catalog)
    assert [finding.object for finding in report.check.harmful] == [record_name(site.mid, 4)]


def test_a_restore_does_not_bring_deleted_content_back(site: Site, target: LocalStore) -> None:
    backup(site.store, target, site.ring.trusted)
    blobs = site.blobs_of(site.ids[1])
    site.delete(site.ids[1])
    for name in blobs:
        site.store.delete(name)
    restore(target, site.store, site.ring, "default", site.catalog)
    assert not set(blobs) & set(site.names())


# -- rebuilding --------------------------------------------------------------------------------


def test_a_rebuilt_catalog_equals_the_one_that_grew(site: Site) -> None:
    with site.new_catalog() as catalog:
        report = rebuild(site.new_registry(catalog=catalog), catalog)
        assert rows(catalog) == rows(site.catalog)
        assert len(rows(catalog)["marks"]) == 4 and (report.versions, report.aliases) == (4, 2)
        with pytest.raises(ConflictError, match="already"):
            rebuild(site.new_registry(catalog=catalog), catalog)


def test_a_rebuild_names_what_it_could_not_read(site: Site) -> None:
    site.store.delete(envelope_name(site.mid, 2, 0))
    with site.new_catalog() as catalog:
        report = rebuild(site.new_registry(catalog=catalog), catalog)
    assert report.unreadable == (record_name(site.mid, 2),) and report.versions == 3


# -- repairing ---------------------------------------------------------------------------------


def test_everything_damaged_comes_back_from_a_copy(site: Site, target: LocalStore) -> None:
    backup(site.store, target, site.ring.trusted)
    whole, pick = objects(site.store), random.Random(5)
    cases = 0
    for count in (1, 1, 2, 3, 5, 8):
        hurt = pick.sample(sorted(whole), count)
        for name in hurt:
            damage(site.store, name, pick)
        report = repair(site.store, site.ring, [target], marks=site.catalog.marks.all())
        assert report.lost == () and objects(site.store) == whole, hurt
        cases += count
    print(f"\n{cases} damaged objects of every class repaired from a copy")


def test_quarantine_is_asked_first_and_nothing_is_invented(site: Site) -> None:
    (blob,) = site.blobs_of(site.ids[0])
    data = site.store.get(blob)
    site.store.create(f"q/{blob}", data)
    site.store.delete(blob)
    assert [r.source for r in repair(site.store, site.ring).repaired] == ["quarantine"]
    site.path(f"q/{blob}").write_bytes(b"x")
    site.store.delete(blob)
    report = repair(site.store, site.ring)
    lost = {finding.object: finding.versions for finding in report.lost}
    assert report.repaired == () and lost[blob] == ("model m@1",)
    assert blob not in site.names()


def test_a_rolled_back_store_comes_forward_again(site: Site, target: LocalStore) -> None:
    whole_before = site.copy_of_store("yesterday")
    publish(site.registry, state=weights(4))
    publish(site.registry, state=weights(5))
    site.registry.set_alias(MODEL, "m", "champion", 5)
    backup(site.store, target, site.ring.trusted)
    report = repair(whole_before, site.ring, [target], marks=site.catalog.marks.all())
    assert report.lost == () and objects(whole_before) == objects(site.store)


def test_a_damaged_copy_and_a_foreign_one_are_not_believed(site: Site, target: LocalStore, tmp_path: Path) -> None:
    backup(site.store, target, site.ring.trusted)
    (blob,) = site.blobs_of(site.ids[0])
    record = record_name(site.mid, 2)
    for name in (blob, record):
        site.store.delete(name)
    target.path(blob).write_bytes(b"worse")
    target.path(record).write_bytes(target.get(record_name(site.mid, 1)))
    report = repair(site.store, site.ring, [target])
    assert {blob, record} <= {finding.object for finding in report.lost} and report.repaired == ()
    from lightmill.errors import RequestError

    with pytest.raises(RequestError, match="another store"):
        repair(site.store, site.ring, [Site(tmp_path / "another").store])


def test_an_envelope_comes_back_under_another_rotation(site: Site, target: LocalStore) -> None:
    from lightmill.vault import rewrap_envelope

    backup(site.store, target, site.ring.trusted)
    old = envelope_name(site.mid, 1, 0)
    context = {"store": site.store_id, "workspace": "default", "mid": site.mid, "seq": "1"}
    data, _ = rewrap_envelope(site.store.get(old), site.ring.provider, context)
    site.store.create(envelope_name(site.mid, 1, 1), data)
    site.store.delete(old)
    site.path(envelope_name(site.mid, 1, 1)).write_bytes(b"damaged")
    report = repair(site.store, site.ring, [target])
    assert [r.object for r in report.repaired] == [old]
    read(site.registry, site.ids[0])
