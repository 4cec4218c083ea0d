"""Ingestion on a real Ray: rows in the same splits however they come, work that is not done twice, and appends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightmill.control.ray_session import own_session
from lightmill.datasets.ingest import ingest
from lightmill.datasets.profiles import read_profile
from lightmill.datasets.reading import read_rows
from lightmill.errors import RequestError
from lightmill.records.assets import DatasetCard, Provenance, VersionSummary
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.jobs import Progress
from lightmill.records.splitting import SPLITS
from lightmill.registry import RegistryLocation
from lightmill.registry.rekeying import rekey as rekey_version
from lightmill.wiring.operations.keys import reseal_parquet
from tests.unit.registry.world import World

pytestmark = [pytest.mark.integration, pytest.mark.slow]
ROWS = 6000
SPEC: dict[str, Any] = {
    "name": "d",
    "source": {"format": "parquet", "path": "rows"},
    "columns": [
        {"name": "age", "dtype": "float64", "max_nulls": 0.1, "maximum": 75},
        {"name": "land", "dtype": "string", "values": ["DE", "FR", "IT"]},
        {"name": "mail", "dtype": "string", "role": "key", "tags": ["email"]},
        {"name": "t", "dtype": "int64", "role": "ignore"},
        {"name": "buys", "dtype": "string", "role": "label", "values": ["no", "yes"]},
    ],
    "rules": {"out_of_range": "quarantine", "duplicates": "keep"},
    "masking": {"name": "staff", "rules": [{"columns": ["mail"], "action": "pseudonym"}]},
    "split": {"by": "stratified", "seed": 1},
    "prepare": [
        {"step": "impute", "columns": ["age"], "with": "median"},
        {"step": "standardize", "columns": ["age"]},
        {"step": "one_hot", "columns": ["land"]},
    ],
}
IMPUTED = {"step": "impute", "columns": ["age"], "with": "mean"}


class Place:
    """A registry and a folder of sources."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = World(folder / "world")
        self.location = RegistryLocation(
            store_url=str(self.world.root), keyring_path=str(self.world.ring.path), workspace="default"
        )
        (folder / "rows").mkdir()
        self.said: list[Progress] = []

    def write(self, number: int, name: str = "") -> Path:
        chance = np.random.default_rng(number)
        age = chance.normal(40, 12, ROWS)
        age[chance.random(ROWS) < 0.05] = np.nan
        table = pa.table(
            {
                "age": pa.array(age, from_pandas=True),
                "land": chance.choice(["DE", "FR", "IT"], ROWS),
                "mail": [f"p{number}.{n}@x.example" for n in range(ROWS)],
                "t": np.arange(ROWS) + number * ROWS,
                "buys": chance.choice(["no", "yes"], ROWS),
            }
        )
        path = self.folder / "rows" / (name or f"{number}.parquet")
        pq.write_table(table, path, compression="none", use_dictionary=False)
        return path

    def ingest(self, work: Path | None = None, stop: str = "", **more: Any) -> VersionSummary:
        self.said = []

        def report(now: Progress) -> None:
            self.said.append(now)
            if stop and now.phase.startswith(stop) and now.done and now.done == now.total:
                raise KeyboardInterrupt

        spec = DatasetSpec.model_validate(SPEC | more)
        return ingest(spec, self.folder, self.world.registry, self.location, Provenance(), report, work)

    def rows(self, id: Any, group: str) -> pa.Table:
        return read_rows(self.world.registry.open(id), self.location, group)


@pytest.fixture(scope="module")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with own_session(4, None, tmp_path_factory.mktemp("spill")):
        yield


@pytest.fixture
def place(ray_session: None, tmp_path: Path) -> Place:
    found = Place(tmp_path)
    for number in range(2):
        found.write(number)
    return found


def card(summary: VersionSummary) -> DatasetCard:
    return DatasetCard.model_validate(summary.card)


@pytest.mark.parametrize(
    "split",
    [
        {"by": "random", "seed": 2},
        {"by": "stratified", "column": "land"},
        {"by": "sequential", "column": "t"},
        {"by": "grouped", "column": "t"},
        {"by": "hash", "column": "mail"},
        {"by": "predicate", "test": {"column": "t", "op": ">=", "value": 10_000}},
    ],
)
def test_every_split_puts_each_row_into_one_and_the_digest_says_so_again(place: Place, split: dict[str, Any]) -> None:
    first, again = place.ingest(split=split), place.ingest(split=split)
    assert card(first).content_digest == card(again).content_digest != ""
    ids = np.concatenate([place.rows(first.id, name).column("row_id").to_numpy() for name in SPLITS])
    assert len(np.unique(ids)) == len(ids) == card(first).profile.rows_kept
    assert card(first).profile.splits == {name: place.rows(first.id, name).num_rows for name in SPLITS}
    assert sum(card(first).profile.classes.values()) == len(ids)


def test_what_was_finished_is_not_read_again(place: Place, tmp_path: Path) -> None:
    whole = place.ingest()
    with pytest.raises(KeyboardInterrupt):
        place.ingest(tmp_path / "work", stop="seal")
    assert len(list((tmp_path / "work").glob("*.journal"))) == 1
    for path in (tmp_path / "rows").glob("*.parquet"):  # every value is destroyed; size and time stay as they were
        data, stat = bytearray(path.read_bytes()), path.stat()
        data[4:200_000] = bytes(200_000 - 4)
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = place.ingest(tmp_path / "work")
    assert card(again).content_digest == card(whole).content_digest
    assert card(again).profile == card(whole).profile and card(again).sources == card(whole).sources
    assert any("resumed: 1 of 1 pieces were done" in now.phase for now in place.said)
    assert not list((tmp_path / "work").glob("*.journal"))
    with pytest.raises(RequestError):  # the control: without the journal the destroyed files are read
        place.ingest(rules={"out_of_range": "quarantine", "unreadable": "fail", "type": "fail"})


def test_an_append_shares_the_files_of_before_and_reads_new_ones_only(place: Place) -> None:
    before = place.ingest()
    stored = {path for path in place.world.root.rglob("b/*/*") if path.is_file()}
    old = {name: place.rows(before.id, name) for name in SPLITS}
    gone = place.folder / "rows" / "0.parquet"
    gone.unlink()  # what has been read may be archived
    place.write(2, "00-comes-first-by-name.parquet")
    after = place.ingest(append=True)
    version = place.world.registry.open(after.id)
    assert card(after).appended_to == before.id.seq and [one.seq for one in version.manifest.lenders] == [1]
    shared = [entry for entry in version.manifest.files if entry.lender is not None]
    fresh = [entry for entry in version.manifest.files if entry.object and entry.lender is None]
    assert len(shared) == len([e for e in place.world.registry.open(before.id).manifest.files if e.object])
    added = {path for path in place.world.root.rglob("b/*/*") if path.is_file()} - stored
    assert {path.name for path in added} >= {entry.object for entry in fresh}
    for name in SPLITS:
        rows = place.rows(after.id, name)
        assert rows.slice(0, old[name].num_rows).equals(old[name])
        assert set((rows.slice(old[name].num_rows).column("row_id").to_numpy() >> 40).tolist()) == {2}
    assert [file.name for file in card(after).sources] == [
        "rows/0.parquet",
        "rows/1.parquet",
        "rows/00-comes-first-by-name.parquet",
    ]


def test_a_profile_after_an_append_is_that_of_all_rows(place: Place) -> None:
    place.ingest()
    place.write(2)
    appended, whole = place.ingest(append=True), place.ingest(name="whole")
    found = read_profile(place.world.registry.open(appended.id))
    wanted = read_profile(place.world.registry.open(whole.id))
    assert found.rows_in == wanted.rows_in == 3 * ROWS
    assert found.rejected == wanted.rejected and found.rows == wanted.rows
    for mine, theirs in zip(found.columns, wanted.columns, strict=True):
        assert (mine.count, mine.nulls, mine.distinct, mine.top) == (
            theirs.count,
            theirs.nulls,
            theirs.distinct,
            theirs.top,
        )
        if mine.numbers and theirs.numbers:
            assert mine.numbers.histogram == theirs.numbers.histogram
            assert mine.numbers.mean == pytest.approx(theirs.numbers.mean)
    assert card(appended).profile.classes == card(whole).profile.classes
    assert place.ingest(append=True).id == appended.id  # nothing is new


def test_a_third_append_and_keys_of_its_own_after_rekeying(place: Place) -> None:
    place.ingest()
    for number in (2, 3):
        place.write(number)
        last = place.ingest(append=True)
    registry = place.world.registry
    version = registry.open(last.id)
    assert [one.seq for one in version.manifest.lenders] == [1, 2]
    assert sum(place.rows(last.id, name).num_rows for name in SPLITS) == card(last).profile.rows_kept
    made = rekey_version(registry, last.id, reseal_parquet, None)
    again = registry.open(made.id)
    assert not any(entry.lender is not None for entry in again.manifest.files) and again.manifest.lenders == ()
    assert all(place.rows(made.id, name).equals(place.rows(last.id, name)) for name in SPLITS)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"prepare": [IMPUTED, *SPEC["prepare"][1:]]}, "`prepare` is not as it was"),
        ({"rules": {"duplicates": "drop"}}, "compares rows with all others"),
        ({"source": {"format": "parquet", "path": "rows/1.parquet"}}, "had"),
    ],
)
def test_an_append_that_would_not_fit_is_refused(place: Place, more: dict[str, Any], message: str) -> None:
    place.ingest()
    if "source" in more:
        place.write(9, "1.parquet")
        pq.write_table(pq.read_table(place.folder / "rows" / "1.parquet").slice(1), place.folder / "rows" / "1.parquet")
    with pytest.raises(RequestError, match=message):
        place.ingest(append=True, **more)


def test_the_first_append_of_all_is_a_whole_ingestion(place: Place) -> None:
    first = place.ingest(append=True)
    assert first.id.seq == 1 and card(first).appended_to is None
