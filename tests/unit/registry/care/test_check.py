"""A check finds everything that is wrong, names it, and finds nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from lightmill.errors import RequestError
from lightmill.records.care import Finding, Problem
from lightmill.registry.names import alias_name, envelope_name, record_name
from lightmill.storage import LocalStore
from lightmill.vault import KeyRing
from tests.unit.registry.care.site import Site, damage
from tests.unit.registry.world import MODEL, publish


def found(findings: tuple[Finding, ...], problem: Problem) -> list[str]:
    return [finding.object for finding in findings if finding.problem is problem]


def test_a_whole_store_has_no_findings(site: Site) -> None:
    for deep in (False, True):
        report = site.check(deep=deep, marks=site.catalog.marks.all())
        assert report.findings == () and report.deep is deep
        assert (report.assets, report.versions, report.aliases, report.deleted) == (2, 4, 2, 0)
        assert report.objects == report.objects_read == 8
        assert report.bytes_read == sum(site.store.head(name) for name in site.names() if name[:2] in ("b/", "m/"))
        assert report.marks == 4
        assert bool(report.segments) is deep


def test_the_keyless_level_needs_public_keys_only(site: Site, tmp_path: Path) -> None:
    from lightmill.registry.care import check

    trusted = dict(site.ring.trusted)
    site.ring.path.unlink()
    assert check(site.store, trusted).findings == ()


@pytest.mark.parametrize("deep", [False, True], ids=["keyless", "keyed"])
def test_all_injected_damage_is_found_and_named(site: Site, tmp_path: Path, deep: bool) -> None:
    """One object of each store at a time. Without a key a flipped bit inside an envelope cannot be seen."""
    pick, kinds, cases = random.Random(11 + deep), {}, 0
    names = [name for name in site.names() if name != "lightmill.json"]
    for case in range(30):
        name = pick.choice(names)
        copy = site.copy_of_store(f"copy{case}")
        what = damage(copy, name, pick)
        if not deep and "/e/" in name and what == "flip":
            continue
        report = site.check(copy, deep=deep, marks=site.catalog.marks.all())
        named = {finding.object for finding in report.harmful}
        assert name in named, f"{what} of {name}: {report.findings}"
        assert all(finding.versions for finding in report.harmful)
        kinds[what] = kinds.get(what, 0) + 1
        cases += 1
    print(f"\n{cases} objects damaged, all found and named at the {'keyed' if deep else 'keyless'} level: {kinds}")


def test_much_damage_at_once_is_all_found(site: Site) -> None:
    pick = random.Random(3)
    copy = site.copy_of_store()
    names = [name for name in site.names() if name[:2] in ("b/", "m/")]
    hurt = set(pick.sample(names, 5))
    for name in hurt:
        damage(copy, name, pick)
    assert {finding.object for finding in site.check(copy).harmful} == hurt


def test_a_missing_record_below_the_newest_is_named(site: Site) -> None:
    site.store.delete(record_name(site.mid, 2))
    missing = found(site.check().findings, Problem.MISSING)
    assert missing == [record_name(site.mid, 2)]


def test_the_newest_record_is_missed_through_the_marks_only(site: Site) -> None:
    site.store.delete(record_name(site.mid, 3))
    marks = site.catalog.marks.all()
    assert record_name(site.mid, 3) not in found(site.check().findings, Problem.MISSING)
    assert record_name(site.mid, 3) in found(site.check(marks=marks).findings, Problem.MISSING)


def test_the_marks_miss_the_newest_move_of_an_alias(site: Site) -> None:
    site.store.delete(alias_name(site.mid, "champion", 2))
    report = site.check(marks=site.catalog.marks.all())
    assert found(report.findings, Problem.MISSING) == [alias_name(site.mid, "champion", 2)]


def test_records_that_change_places_are_damaged(site: Site) -> None:
    one, two = record_name(site.mid, 1), record_name(site.mid, 2)
    first, second = site.path(one).read_bytes(), site.path(two).read_bytes()
    site.path(one).write_bytes(second)
    site.path(two).write_bytes(first)
    assert {one, two} <= set(found(site.check().findings, Problem.DAMAGED))


def test_a_record_with_another_store_in_it_is_named_at_both_levels(site: Site) -> None:
    from lightmill.vault import canonical_json, decode_base64, encode_base64

    path = site.path(record_name(site.mid, 2))
    signed = json.loads(path.read_bytes())
    payload = json.loads(decode_base64(signed["payload"])) | {"store": "not a store's id"}
    path.write_bytes(canonical_json(signed | {"payload": encode_base64(canonical_json(payload))}))
    for deep in (False, True):
        assert record_name(site.mid, 2) in found(site.check(deep=deep).findings, Problem.DAMAGED)


def test_a_record_of_a_stranger_is_damaged(site: Site, tmp_path: Path) -> None:
    from lightmill.vault import COMMIT_TYPE, decode_base64

    stranger = KeyRing.create(tmp_path / "stranger.json")
    name = record_name(site.mid, 2)
    payload = decode_base64(json.loads(site.path(name).read_bytes())["payload"])
    site.path(name).write_bytes(stranger.signer.sign(payload, COMMIT_TYPE))
    assert name in found(site.check().findings, Problem.DAMAGED)


def test_the_keyed_level_finds_an_envelope_of_another_version(site: Site) -> None:
    name = envelope_name(site.mid, 1, 0)
    text = site.path(envelope_name(site.mid, 2, 0)).read_text()
    site.path(name).write_text(text.replace('"seq":"2"', '"seq":"1"'))
    assert site.check().harmful == ()
    harmful = site.check(deep=True).harmful
    assert name in [finding.object for finding in harmful]


def test_what_a_publisher_left_is_orphaned_and_harmless(site: Site) -> None:
    draft = site.registry.begin(MODEL, "m")
    draft.seal_files({"a": b"left"})
    report = site.check()
    assert report.harmful == () and report.leases == 1
    assert len(found(report.findings, Problem.ORPHANED)) == 1


def test_a_deleted_version_s_objects_are_orphaned_and_name_it(site: Site) -> None:
    blobs = site.blobs_of(site.ids[1])
    site.delete(site.ids[1])
    report = site.check()
    orphaned = {finding.object: finding for finding in report.findings if finding.problem is Problem.ORPHANED}
    assert set(blobs) < set(orphaned) and report.harmful == () and report.deleted == 1
    assert orphaned[blobs[0]].versions == (f"{site.mid}@2",)
    for name in orphaned:
        site.store.delete(name)
    assert site.check(deep=True).findings == ()


def test_damage_that_costs_nobody_a_version_is_named_and_harmless(site: Site) -> None:
    site.registry.begin(MODEL, "m").seal_files({"a": b"left"})
    (left,) = found(site.check().findings, Problem.ORPHANED)
    site.path(left).write_bytes(b"x")
    (finding,) = site.check().findings
    assert (finding.object, finding.problem) == (left, Problem.ORPHANED) and "digest" in finding.detail


def test_a_foreign_object_is_named(site: Site) -> None:
    site.store.create("notes.txt", b"hello")
    assert found(site.check().findings, Problem.FOREIGN) == ["notes.txt"]


def test_keyed_findings_name_the_asset(site: Site) -> None:
    (blob,) = site.blobs_of(site.other)
    site.path(blob).write_bytes(b"x")
    (finding,) = site.check(deep=True).harmful
    assert finding.versions == ("model other@1",)


def test_a_sample_is_chosen_by_its_seed(site: Site) -> None:
    reads = [site.check(sample=40, seed=seed) for seed in (1, 1, 2)]
    assert {report.objects_read for report in reads} == {4}
    assert reads[0].bytes_read == reads[1].bytes_read
    assert (reads[2].sample, reads[2].seed) == (40, 2)
    with pytest.raises(RequestError, match="percentage"):
        site.check(sample=0)


def test_a_sample_still_looks_for_every_object(site: Site) -> None:
    (blob,) = site.blobs_of(site.other)
    site.store.delete(blob)
    assert found(site.check(sample=1).findings, Problem.MISSING) == [blob]


def test_a_check_of_a_store_in_use_finds_nothing(site: Site) -> None:
    """A version is published between the listing of the records and that of the objects."""
    from tests.attacks.stage import Hooked

    seen = []

    def hook(method: str, name: str) -> None:
        if (method, name) == ("list", "") and not seen:
            seen.append(publish(site.registry))

    assert site.check(Hooked(site.store, hook)).findings == ()
    assert seen


def test_a_rotation_during_a_check_is_no_finding(site: Site) -> None:
    from lightmill.vault import rewrap_envelope
    from tests.attacks.stage import Hooked

    old, new = (envelope_name(site.mid, 1, rot) for rot in (0, 1))
    context = {"store": site.store_id, "workspace": "default", "mid": site.mid, "seq": "1"}
    done = []

    def hook(method: str, name: str) -> None:
        if (method, name) == ("get", old) and not done:
            done.append(name)
            site.store.create(new, rewrap_envelope(site.store.get(old), site.ring.provider, context)[0])
            site.store.delete(old)

    report = site.check(Hooked(site.store, hook), deep=True)
    assert done and report.findings == () and report.segments == 4


def test_progress_reaches_its_total(site: Site) -> None:
    told = []
    site.check(report=told.append)
    assert told[-1].done == told[-1].total == 8
    assert {progress.phase for progress in told} == {"records", "versions", "objects"}


def test_a_store_on_disk_is_not_changed(site: Site) -> None:
    before = {name: site.store.get(name) for name in site.names()}
    site.check(deep=True)
    assert {name: site.store.get(name) for name in site.names()} == before
    assert isinstance(site.store, LocalStore)
