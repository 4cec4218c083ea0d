"""Counting, evaluating, batching and snapshots of one worker, without Ray Train."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightmill.training.batches import CACHE_BYTES, Batches, cut_tables, read_all, step_sizes
from ray.train import Checkpoint
from torch import nn
from torch.nn import functional

from lightmill.errors import IntegrityError
from lightmill.records.assets import Provenance, RunCard
from lightmill.records.references import AssetKind
from lightmill.records.signature import Architecture
from lightmill.registry import RegistryLocation
from lightmill.training.checkpoints import (
    POINTER_FILE,
    load_model_state,
    load_snapshot,
    read_pointer,
    restore,
    seal_snapshot,
    take_snapshot,
)
from lightmill.training.loop import Tally, evaluate, train_epoch
from lightmill.training.objectives import Batch, CrossEntropy, Step
from lightmill.training.rows import Rows
from tests.attacks.scene import dataset_card
from tests.unit.registry.world import World

CPU = torch.device("cpu")


def cross_entropy(features: int = 3, classes: int = 4) -> CrossEntropy:
    card = dataset_card(classes=tuple(map(str, range(classes))))
    shaped = card.model_copy(update={"features": card.features.model_copy(update={"shape": (features,)})})
    return CrossEntropy(shaped, Architecture(name="logistic"))


ROWS = Rows(cross_entropy(), dataset_card())
BY_TWO = cross_entropy(2, 2)


class TableShard:
    """A worker's shard that lies in memory; it counts how often it is read."""

    def __init__(self, rows: int, features: int = 3) -> None:
        flat = pa.array(np.arange(rows * features, dtype=np.float32))
        self.table = pa.table(
            {
                "features": pa.FixedSizeListArray.from_arrays(flat, features),
                "label": pa.array(np.arange(rows) % 4),
            }
        )
        self.reads: list[dict[str, object]] = []

    def iter_batches(self, **options: object) -> Iterator[pa.Table]:
        self.reads.append(options)
        size = options["batch_size"]
        assert isinstance(size, int)
        for start in range(0, self.table.num_rows, size):
            yield self.table.slice(start, size)


def first_features(batches: Iterator[Batch]) -> list[list[int]]:
    return [(batch[0][:, 0] / 3).int().tolist() for batch in batches]


def test_each_row_comes_once_an_epoch_in_batches_of_the_size_with_its_label() -> None:
    batches = Batches(TableShard(23), ROWS, 5, seed=1, device=CPU, shard_bytes=0)
    for epoch in range(3):
        found = list(batches.epoch(epoch))
        assert [len(label) for _, label in found] == [5, 5, 5, 5, 3]
        rows = [row for part in first_features(iter(found)) for row in part]
        assert sorted(rows) == list(range(23))
        labels = [int(x) for _, label in found for x in label]
        assert labels == [row % 4 for row in rows]
    features, label = next(batches.epoch(0))
    assert (features.dtype, label.dtype, features.shape) == (torch.float32, torch.int64, (5, 3))


def test_seed_and_epoch_alone_decide_the_order() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return first_features(Batches(TableShard(40), ROWS, 8, seed=seed, device=CPU, shard_bytes=0).epoch(epoch))

    assert order(1, 0) == order(1, 0)
    assert len({str(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}) == 6
    resumed = Batches(TableShard(40), ROWS, 8, seed=1, device=CPU, shard_bytes=0)
    assert first_features(resumed.epoch(2)) == order(1, 2)


def test_a_small_shard_is_read_once_and_a_large_one_every_epoch() -> None:
    small, large = TableShard(10), TableShard(10)
    for shard, size in ((small, CACHE_BYTES), (large, CACHE_BYTES + 1)):
        batches = Batches(shard, ROWS, 4, seed=3, device=CPU, shard_bytes=size)
        for epoch in range(3):
            assert sum(len(label) for _, label in batches.epoch(epoch)) == 10
    assert len(small.reads) == 1
    assert len(large.reads) == 3
    assert len({str(options["local_shuffle_seed"]) for options in large.reads}) == 3
    assert all(options["batch_size"] == 4 for options in large.reads)


@given(st.integers(0, 200), st.integers(1, 60))
def test_a_worker_s_rows_are_spread_over_all_steps(rows: int, steps: int) -> None:
    sizes = step_sizes(rows, steps)
    assert len(sizes) == steps and sum(sizes) == rows and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("shard_bytes", [0, CACHE_BYTES + 1], ids=["kept", "streamed"])
def test_batches_have_the_sizes_that_a_distribution_asks_for(shard_bytes: int) -> None:
    sizes = (0, 4, 5, 5, 0, 5)
    batches = Batches(TableShard(19), ROWS, 7, seed=1, device=CPU, shard_bytes=shard_bytes, sizes=sizes)
    for epoch in range(2):
        found = first_features(batches.epoch(epoch))
        assert tuple(map(len, found)) == sizes
        assert sorted(row for part in found for row in part) == list(range(19))


def test_tables_are_cut_in_order() -> None:
    tables = [pa.table({"n": [0, 1, 2]}), pa.table({"n": [3]}), pa.table({"n": [4, 5, 6, 7]})]
    found = [part.column("n").to_pylist() for part in cut_tables(tables, (2, 4, 0, 2))]
    assert found == [[0, 1], [2, 3, 4, 5], [], [6, 7]]


def test_a_batch_without_rows_has_no_loss_and_no_gradient() -> None:
    module = nn.Linear(2, 2)
    step = BY_TWO.step(module, (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)))
    step.loss.backward()
    assert float(step.loss.detach()) == 0.0 and step.count == 0
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_a_whole_shard_is_two_tensors() -> None:
    features, label = read_all(TableShard(10), ROWS, CPU)
    assert features.tolist() == torch.arange(30.0).reshape(10, 3).tolist()
    assert label.tolist() == [n % 4 for n in range(10)]


@pytest.mark.parametrize("steps", [1, Tally.FLUSH_STEPS - 1, Tally.FLUSH_STEPS, 2 * Tally.FLUSH_STEPS + 3])
def test_a_tally_is_the_sum_over_steps(steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    tally, loss_sum, hits, rows = Tally(cross_entropy(classes=3)), 0.0, 0, 0
    for step in range(steps):
        size = 1 + step % 5
        logits = torch.randn(size, 3, generator=generator)
        label = torch.randint(0, 3, (size,), generator=generator)
        loss = functional.cross_entropy(logits, label)
        tally.add(Step(loss=loss, count=len(label), kept=(logits, label)))
        loss_sum += float(loss.double()) * size
        hits += int((logits.argmax(dim=1) == label).sum())
        rows += size
    totals = tally.totals()
    np.testing.assert_allclose(totals.tolist(), [loss_sum, hits, rows], rtol=1e-9)
    assert totals.tolist() == tally.totals().tolist()


def test_an_epoch_of_training_lowers_the_loss_and_reports_means_over_rows() -> None:
    torch.manual_seed(1)
    module = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.05)
    features = torch.randn(64, 2)
    label = (features[:, 0] > 0).long()

    def epoch() -> dict[str, float]:
        batches = iter(zip(features.split(10), label.split(10), strict=True))
        return train_epoch(module, optimizer, batches, BY_TWO, CPU)

    first = epoch()
    for _ in range(20):
        last = epoch()
    assert last["loss"] < first["loss"] / 2
    assert 0.9 < last["train_accuracy"] <= 1
    assert first.keys() == {"loss", "train_accuracy", "steps_per_second"}
    found = evaluate(module, (features, label), BY_TWO, 10)
    with torch.inference_mode():
        assert found["loss"] == pytest.approx(float(functional.cross_entropy(module(features), label)))
    assert found["accuracy"] == pytest.approx(float((module(features).argmax(1) == label).double().mean()))


def test_evaluation_turns_dropout_off_and_training_turns_it_on_again() -> None:
    module = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.9), nn.Linear(8, 2))
    data = (torch.randn(20, 2), torch.zeros(20, dtype=torch.int64))
    assert evaluate(module, data, BY_TWO, 4) == evaluate(module, data, BY_TWO, 4)
    assert not module.training
    train_epoch(module, torch.optim.SGD(module.parameters(), lr=0.0), iter([data]), BY_TWO, CPU)
    assert module.training


# -- snapshots ----------------------------------------------------------------------


def trained(steps: int, seed: int = 1) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.1)
    go_on(module, optimizer, steps)
    return module, optimizer


def go_on(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(99)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(8, 3, generator=generator)).square().sum().backward()
        optimizer.step()


def same_state(left: nn.Module, right: nn.Module) -> bool:
    states = left.state_dict(), right.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_what_is_restored_trains_on_as_if_nothing_had_happened() -> None:
    module, optimizer = trained(5)
    other, other_optimizer = trained(2, seed=2)
    assert not same_state(module, other)
    restore(copy.deepcopy(take_snapshot(3, module, optimizer)), other, other_optimizer)
    assert same_state(module, other)
    go_on(module, optimizer, 4)
    go_on(other, other_optimizer, 4)
    assert same_state(module, other)


def test_a_sealed_snapshot_resumes_the_same_in_another_process(tmp_path: Path) -> None:
    world = World(tmp_path)
    location = RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")
    module, optimizer = trained(5)
    card = RunCard(model="m", epoch=3, metrics={"loss": 0.5})
    id = seal_snapshot(location, "run-1", card, take_snapshot(3, module, optimizer), Provenance(run="run-1"))
    assert (id.kind, id.name, id.seq) == (AssetKind.RUN, "run-1", 1)

    version = world.new_registry().open(id)
    snapshot = load_snapshot(version)
    assert snapshot.epoch == 3
    assert version.manifest.run == card
    other, other_optimizer = trained(0, seed=2)
    restore(snapshot, other, other_optimizer)
    go_on(module, optimizer, 4)
    go_on(other, other_optimizer, 4)
    assert same_state(module, other)
    state = load_model_state(version)
    assert state.keys() == module.state_dict().keys()


def test_a_snapshot_before_the_first_step_restores(tmp_path: Path) -> None:
    module, optimizer = trained(0)
    other, other_optimizer = trained(0, seed=2)
    restore(take_snapshot(0, module, optimizer), other, other_optimizer)
    go_on(module, optimizer, 3)
    go_on(other, other_optimizer, 3)
    assert same_state(module, other)


def test_a_pointer_is_read_or_refused_by_its_path(tmp_path: Path) -> None:
    checkpoint = Checkpoint.from_directory(str(tmp_path))
    with pytest.raises(IntegrityError, match=POINTER_FILE):
        read_pointer(checkpoint)
    (tmp_path / POINTER_FILE).write_text('{"kind": "run"}')
    with pytest.raises(IntegrityError, match=POINTER_FILE):
        read_pointer(checkpoint)
    (tmp_path / POINTER_FILE).write_text('{"kind":"run","name":"r","seq":2,"digest":"aa"}')
    assert str(read_pointer(checkpoint)) == "r@2"
