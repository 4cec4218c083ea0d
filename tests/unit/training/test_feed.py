"""The batches of one worker from a real sealed version: kept in memory, or streamed through Ray Data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import pytest
import ray
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.datasets.dealing import deal_split
from lightmill.records.splitting import DistributionSpec
from lightmill.training import stream
from lightmill.training.feed import Feed, KeptFeed, Origin, whole_batch
from lightmill.training.lanes import Lanes
from lightmill.training.rows import Rows
from lightmill.training.stream import StreamedFeed
from tests.unit.training.sealed_rows import CLASSES, FILES, Sealed, seal_rows

CPU = torch.device("cpu")
ROWS = sum(FILES["train"])


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return seal_rows(tmp_path_factory.mktemp("fed"))


def feeds(sealed: Sealed, kind: type, count: int, batch: int, world: int, by: str = "random") -> list[Feed]:
    """The feed of each of `world` workers."""
    places = deal_split(sealed.version, sealed.location, DistributionSpec(by=by), count)  # pyright: ignore[reportArgumentType]
    origin = Origin(sealed.version, sealed.location, "train", places)
    lanes = Lanes([len(one) for one in places], batch)
    rows = Rows(sealed.objective(), sealed.card)
    return [kind(origin, rows, lanes, lanes.share(rank, world), 5, CPU) for rank in range(world)]


def ids(feed: Feed, epoch: int, first: int = 0) -> list[list[int]]:
    """The row ids of each step; each row has the features and the label that belong to it."""
    found = []
    for features, label in feed.epoch(epoch, first):
        assert (features.dtype, label.dtype, features.shape[1]) == (torch.float32, torch.int64, 3)
        found.append(features[:, 0].int().tolist())
        assert label.tolist() == [row % CLASSES for row in found[-1]]
    return found


def together(feeds: list[Feed], epoch: int, first: int = 0) -> list[list[int]]:
    return [sorted(chain(*parts)) for parts in zip(*(ids(feed, epoch, first) for feed in feeds), strict=True)]


@given(st.integers(1, 6), st.integers(1, 25), st.integers(1, 4), st.data())
@settings(max_examples=8, deadline=None)
def test_a_kept_share_gives_every_row_once_and_goes_on_anywhere_with_other_workers(
    sealed: Sealed, count: int, batch: int, world: int, data: st.DataObject
) -> None:
    alone = feeds(sealed, KeptFeed, count, batch, 1)
    whole = together(alone, 1)
    assert sorted(chain(*whole)) == list(range(ROWS))
    first = data.draw(st.integers(0, len(whole) - 1))
    workers = feeds(sealed, KeptFeed, count, batch, world)
    assert together(workers, 1, first) == whole[first:]
    assert [sorted(chain(*(f.row_ids(1, n) for f in workers))) for n in range(len(whole))] == whole


def test_seed_and_epoch_decide_the_order(sealed: Sealed) -> None:
    (feed,) = feeds(sealed, KeptFeed, 2, 4, 1)
    assert ids(feed, 0) == ids(feed, 0)
    assert len({str(ids(feed, epoch)) for epoch in range(4)}) == 4


def test_a_whole_split_is_tensors(sealed: Sealed) -> None:
    places = deal_split(sealed.version, sealed.location, DistributionSpec(by="sequential"), 1)
    origin = Origin(sealed.version, sealed.location, "train", places)
    rows = Rows(sealed.objective(), sealed.card)
    features, label = whole_batch(origin.table(places[0], rows.columns), rows, CPU)
    assert features[:, 0].tolist() == list(range(ROWS))
    assert label.tolist() == [row % CLASSES for row in range(ROWS)]


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(("count", "batch", "world"), [(1, 6, 1), (2, 6, 2), (3, 5, 2), (4, 20, 3)])
def test_a_streamed_share_gives_every_row_once_and_goes_on_anywhere(
    sealed: Sealed, count: int, batch: int, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of a few rows, so that an epoch begins in the middle of files and windows."""
    monkeypatch.setattr(stream, "WINDOW_ROWS", 6)
    streamed = feeds(sealed, StreamedFeed, count, batch, world, by="sequential")
    whole = together(streamed, 1)
    assert sorted(chain(*whole)) == list(range(ROWS))
    assert together(feeds(sealed, StreamedFeed, count, batch, 1, by="sequential"), 1) == whole
    assert [ids(feed, 2) for feed in streamed] != [ids(feed, 1) for feed in streamed]
    for first in {1, len(whole) // 2, len(whole) - 1}:
        assert together(streamed, 1, first) == whole[first:]
    last = len(whole) - 1
    assert sorted(chain(*(feed.row_ids(1, last) for feed in streamed))) == whole[last]
